"""Runs compared, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from entangle_cli.api.run import Run


def compare(*runs: Run) -> dict[str, Any]:
    """What changed between runs of the same pairs, JSON-able.

    Args:
        runs: at least two, each under its own loss; three or more of one training are ordered by their steps.
    Returns:
        `runs`; `differences`, the settings that differ; `steps`, each run against the one before; `whole`, the last
        run against the first.
    Raises:
        UsageError: fewer than two.
        NothingToJudgeError: two neighbours have no measured pair in common.
    """
    from entangle_cli.diagnose.views.comparing import compare_document, in_order
    from entangle_cli.errors import UsageError

    if len(runs) < 2:
        raise UsageError("one run", "two runs or more", "name the run to compare it with")
    ordered: Sequence[Any] = in_order(runs)
    return compare_document(ordered)
