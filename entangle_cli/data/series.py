"""A folder that Trainer writes its checkpoints to: `checkpoint-N`, in the order of training."""

from __future__ import annotations

import re
from pathlib import Path

STEP = re.compile(r"checkpoint-(\d+)")


def step_of(folder: Path) -> int | None:
    """The training step in a checkpoint folder's name; None for a folder of another name."""
    found = STEP.fullmatch(folder.name)
    return None if found is None else int(found[1])


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """Every checkpoint of a training by its step, in order."""
    found = {
        step: path for path in folder.glob("checkpoint-*") if path.is_dir() and (step := step_of(path)) is not None
    }
    return {step: found[step] for step in sorted(found)}


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest step; None where there is none."""
    found = checkpoints_in(folder)
    return found[max(found)] if found else None
