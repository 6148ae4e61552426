"""A trainer's file for the commands that take their settings from it."""

from __future__ import annotations

from pathlib import Path

from entangle_cli.data.trainer_files.reading import read_trainer_file
from entangle_cli.records.training_setup import TrainingSetup


def training_setup(path: Path) -> TrainingSetup:
    """What a trainer's file says of a training.

    Raises:
        UsageError: it cannot be read, belongs to no known trainer, or describes no preference training.
    """
    return read_trainer_file(path)
