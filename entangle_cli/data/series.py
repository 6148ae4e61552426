"""Trainer's output folder with its checkpoints, `checkpoint-N`."""

from __future__ import annotations

import re
from pathlib import Path

STEP = re.compile(r"checkpoint-(\d+)")


def step_of(folder: Path) -> int | None:
    """The training step in a checkpoint folder's name; None for other names."""
    match = STEP.fullmatch(folder.name)
    return None if match is None else int(match[1])


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """All checkpoints in a folder by training step, in order."""
    checkpoints = {
        step: path for path in folder.glob("checkpoint-*") if path.is_dir() and (step := step_of(path)) is not None
    }
    return {step: checkpoints[step] for step in sorted(checkpoints)}


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the highest step; None if there is none."""
    checkpoints = checkpoints_in(folder)
    return checkpoints[max(checkpoints)] if checkpoints else None
