"""Probe pairs of a training."""
