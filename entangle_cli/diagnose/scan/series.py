"""Selects checkpoints of one training run for `--checkpoints`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from entangle_cli.data.series import checkpoints_in
from entangle_cli.errors import UsageError


def chosen_checkpoints(model: str, choice: str) -> Sequence[Path]:
    """The checkpoints selected by `--checkpoints`: `last`, `all`, or comma-separated steps.

    Raises:
        UsageError: MODEL is not a folder with checkpoints, or has no checkpoint for a given step.
    """
    paths = checkpoints_in(Path(model).expanduser())
    if not paths:
        raise UsageError(
            f"--checkpoints {choice}: {model} holds no checkpoint-N",
            "a folder in which Trainer saved checkpoints",
            "use that folder as MODEL, or remove --checkpoints",
        )
    if choice == "last":
        return [paths[max(paths)]]
    if choice == "all":
        return list(paths.values())
    steps = [int(step) if step.strip().isdecimal() else -1 for step in choice.split(",")]
    if missing := [step for step in steps if step not in paths]:
        available = ", ".join(map(str, paths))
        raise UsageError(
            f"--checkpoints {choice}: " + (f"no step {missing[0]}" if missing[0] >= 0 else "not a list of steps"),
            "last, all, or comma-separated steps",
            f"choose from the available steps: {available}",
        )
    return [paths[step] for step in dict.fromkeys(steps)]
