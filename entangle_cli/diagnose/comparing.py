"""Runs side by side: two checkpoints, two losses, two versions of the data, or a training's series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from entangle_cli.analysis.comparison import compare_runs
from entangle_cli.analysis.statistics import numbers, share
from entangle_cli.diagnose.movements import describe_loss
from entangle_cli.errors import NothingToJudgeError
from entangle_cli.records import LossSettings, Movement, Run, Status


@dataclass(frozen=True, slots=True)
class SeenRun:
    """A run seen under a loss."""

    run: Run
    loss: LossSettings
    columns: Mapping[str, Any]


def compare_document(runs: Sequence[SeenRun]) -> dict[str, Any]:
    """Runs compared, JSON-able.

    Args:
        runs: at least two, in the order in which they are to be read; those of a training by their step.
    Returns:
        `runs`; `steps`, each run against the one before; `whole`, the last against the first, which for two runs is the
        only step.
    Raises:
        NothingToJudgeError: two neighbours have no measured pair in common.
    """
    steps = [compare_runs(first.columns, second.columns) for first, second in pairwise(runs)]
    for place, step in enumerate(steps):
        if not step["matched"]:
            raise NothingToJudgeError(
                f"{runs[place].run.folder} and {runs[place + 1].run.folder} have no measured pair in common",
                "runs of the same data, or of two versions of it",
                "name runs that measured the same pairs",
            )
    return {
        "schema": "entangle.comparison",
        "schema_version": "1.0",
        "predictor": "pair-sgd",
        "runs": [_about(seen) for seen in runs],
        "steps": steps,
        "whole": steps[0] if len(runs) == 2 else compare_runs(runs[0].columns, runs[-1].columns),
    }


def in_order(runs: Sequence[SeenRun]) -> list[SeenRun]:
    """Runs of one training by their steps; any others as they were named."""
    steps = [seen.run.manifest.get("training_step") for seen in runs]
    if len(runs) < 3 or any(step is None for step in steps):
        return list(runs)
    return sorted(runs, key=lambda seen: int(seen.run.manifest["training_step"]))


def _about(seen: SeenRun) -> dict[str, Any]:
    identity = seen.run.manifest["identity"]
    measured = seen.columns["status"] == Status.OK.value
    pairs = int(np.count_nonzero(measured))
    movement = seen.columns["movement"][measured]
    means = {side: numbers(seen.columns, f"{side}_log_prob")[measured] for side in ("chosen", "rejected")}
    return {
        "folder": str(seen.run.folder),
        "status": seen.run.status,
        "model": identity["model"]["name"],
        "data": identity["data"]["name"],
        "training_step": seen.run.manifest.get("training_step"),
        "loss": {**asdict(seen.loss), "words": describe_loss(seen.loss)},
        "pairs": pairs,
        "movements": {kind.value: share(int(np.count_nonzero(movement == kind.value)), pairs) for kind in Movement},
        "median_cosine": float(np.median(numbers(seen.columns, "cosine")[measured])) if pairs else None,
        "mean_log_probs": {side: float(np.mean(values)) if pairs else None for side, values in means.items()},
    }
