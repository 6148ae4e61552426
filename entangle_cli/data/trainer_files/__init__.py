"""Reads the configuration files of trainers: TRL, axolotl and LLaMA-Factory."""
