"""Compares runs pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from entangle_cli.api.run import Run


def compare(*runs: Run) -> dict[str, Any]:
    """Changes between runs of the same pairs, JSON-able.

    Args:
        runs: at least two runs, each under its own loss. Three or more runs of one training are ordered by step.
    Returns:
        `runs`; `differences`, the settings that differ; `steps`, every run against the previous one; `whole`, the last
        run against the first.
    Raises:
        UsageError: there are fewer than two runs.
        NothingToJudgeError: two consecutive runs have no measured pair in common.
    """
    from entangle_cli.diagnose.views.comparing import compare_document, in_order
    from entangle_cli.errors import UsageError

    if len(runs) < 2:
        raise UsageError("fewer than two runs", "two runs or more", "add a run to compare with")
    ordered: Sequence[Any] = in_order(runs)
    return compare_document(ordered)


def compare_with_training(run: Run, log: str | Path) -> dict[str, Any]:
    """The curves of a finished training beside what the scan of its start saw, JSON-able.

    Args:
        run: the scan of the training's start, under the loss of the training.
        log: `trainer_state.json`, or a folder with it.
    Raises:
        DataError: the log cannot be read, or is not of a preference trainer.
    """
    from entangle_cli.diagnose.views.trained import trained_document

    return trained_document(run, Path(log))
