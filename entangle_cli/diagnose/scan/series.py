"""Several checkpoints of one training, as `--checkpoints` chooses them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from entangle_cli.data.series import checkpoints_in
from entangle_cli.errors import UsageError


def chosen_checkpoints(model: str, choice: str) -> Sequence[Path]:
    """The checkpoints of `--checkpoints`: `last`, `all`, or steps with commas between.

    Raises:
        UsageError: MODEL is no folder with checkpoints, or has none of such a step.
    """
    found = checkpoints_in(Path(model).expanduser())
    if not found:
        raise UsageError(
            f"--checkpoints {choice}: {model} holds no checkpoint-N",
            "a folder that Trainer wrote its checkpoints to",
            "name that folder, or leave --checkpoints out",
        )
    if choice == "last":
        return [found[max(found)]]
    if choice == "all":
        return list(found.values())
    steps = [int(step) if step.strip().isdecimal() else -1 for step in choice.split(",")]
    if missing := [step for step in steps if step not in found]:
        named = ", ".join(map(str, found))
        raise UsageError(
            f"--checkpoints {choice}: " + (f"no step {missing[0]}" if missing[0] >= 0 else "not understood"),
            f"last, all, or steps with commas between, of {named}",
            "name steps that are there",
        )
    return [found[step] for step in dict.fromkeys(steps)]
