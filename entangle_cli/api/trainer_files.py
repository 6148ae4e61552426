"""The training that a trainer's file describes."""

from __future__ import annotations

from pathlib import Path

from entangle_cli.records.training_setup import TrainingSetup


def training_setup(path: Path) -> TrainingSetup:
    """What a file of TRL, axolotl or LLaMA-Factory says of a preference training.

    Raises:
        UsageError: it cannot be read, belongs to no known trainer, or describes no preference training.
    """
    from entangle_cli.diagnose.trainer_file import training_setup as read

    return read(path)
