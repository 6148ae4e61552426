"""Runs side by side: two checkpoints, two losses, two versions of the data, or a training's series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from entangle_cli.analysis.comparison import compare_runs
from entangle_cli.analysis.statistics import numbers, quantiles, share
from entangle_cli.diagnose.views.movements import describe_loss
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
        `runs`; `differences`, settings in which they were measured otherwise; `steps`, each run against the one before;
        `whole`, the last against the first, which for two runs is the only step.
    Raises:
        NothingToJudgeError: two neighbours have no measured pair in common.
    """
    steps = [_compared(first, second) for first, second in pairwise(runs)]
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
        "differences": sorted({name for seen in runs[1:] for name in _differences(runs[0], seen)}),
        "steps": steps,
        "whole": steps[0] if len(runs) == 2 else _compared(runs[0], runs[-1]),
    }


WHICH_ROWS = frozenset({"limit", "sample", "seed", "shard", "until_decided", "split", "config_name", "revision"})
"""Settings that say which rows were measured, which matching takes care of."""
SCORED = frozenset({"max_length", "truncation", "tokenization", "chat_template"})
"""What decides which tokens are scored: log-probs of other tokens cannot be compared."""


def _compared(first: SeenRun, second: SeenRun) -> dict[str, Any]:
    found = compare_runs(first.columns, second.columns)
    if SCORED & set(_differences(first, second)):
        found["log_probs"] = {}
    return found


def _differences(first: SeenRun, second: SeenRun) -> list[str]:
    """What else than model, data and loss differs between two runs' measurements."""
    one, other = (seen.run.manifest["identity"] for seen in (first, second))
    settings = (one["settings"], other["settings"])
    names = (settings[0].keys() | settings[1].keys()) - WHICH_ROWS
    found = [name for name in names if settings[0].get(name) != settings[1].get(name)]
    found += [name for name in ("tokenization", "reference") if one.get(name) != other.get(name)]
    templates = (identity["model"].get("chat_template") for identity in (one, other))
    return found + ["chat_template"] * (len(set(templates)) > 1)


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
    no_number: list[Any] = [None]
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
        "median_cosine": (quantiles(numbers(seen.columns, "cosine")[measured], [0.5]) or no_number)[0],
        "mean_log_probs": {side: _mean(values) for side, values in means.items()},
    }


def _mean(values: Any) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
