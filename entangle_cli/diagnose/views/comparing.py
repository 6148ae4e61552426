"""Runs side by side: two checkpoints, two losses, two versions of the data, or a training's series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from entangle_cli.analysis.comparison import compare_runs, match_pairs
from entangle_cli.analysis.reasons import pair_reason
from entangle_cli.analysis.statistics import numbers, quantiles, share
from entangle_cli.diagnose.views.movements import describe_loss, with_movements
from entangle_cli.errors import NothingToJudgeError
from entangle_cli.records.columns import Columns, rows_of, taken
from entangle_cli.records.pair import Movement, Status
from entangle_cli.records.run import OTHER_ROWS, Run


def compare_document(runs: Sequence[Run]) -> dict[str, Any]:
    """Runs compared, JSON-able.

    Args:
        runs: at least two, in the order in which they are to be read; those of a training by their step.
    Returns:
        `runs`; `differences`, settings in which they were measured otherwise; `steps`, each run against the one before;
        `whole`, the last against the first, which for two runs is the only step.
    Raises:
        NothingToJudgeError: two neighbours have no measured pair in common.
    """
    seen = [_Seen(run, with_movements(run.columns, run.loss, run.identity.dtype)) for run in runs]
    steps = [_compared(first, second) for first, second in pairwise(seen)]
    for place, step in enumerate(steps):
        if not step["matched"]:
            raise NothingToJudgeError(
                f"{runs[place].place} and {runs[place + 1].place} have no measured pair in common",
                "runs of the same data, or of two versions of it",
                "name runs that measured the same pairs",
                topic="reports",
            )
    return {
        "schema": "entangle.comparison",
        "schema_version": "1.0",
        "predictor": "pair-sgd",
        "runs": [about_run(*each) for each in seen],
        "differences": sorted({name for run in runs[1:] for name in _differences(runs[0], run)}),
        "steps": steps,
        **_changed(seen[0], seen[-1]),
        "whole": steps[0] if len(runs) == 2 else _compared(seen[0], seen[-1]),
    }


NUM_CHANGED = 25
SHOWN_FIELDS = ("index", "line", "file", "pair_in_row", "movement", "prompt_text", "chosen_text", "rejected_text")


def _changed(first: _Seen, second: _Seen) -> dict[str, Any]:
    """Pairs that moved to another class: how many, and those whose slack changed most, in words and with their text."""
    match = match_pairs(first.columns, second.columns)
    before, after = first.columns["movement"][match.first], second.columns["movement"][match.second]
    known = np.array([old is not None and new is not None for old, new in zip(before, after, strict=True)], dtype=bool)
    changed = np.flatnonzero(known & (before != after))
    slack = second.columns["slack"][match.second] - first.columns["slack"][match.first]
    largest = np.argsort(-np.nan_to_num(np.abs(slack[changed]), nan=0.0, posinf=np.inf), kind="stable")[:NUM_CHANGED]
    places = match.second[changed[largest]]
    rows = rows_of(taken(second.columns, places))
    return {
        "num_changed": len(changed),
        "changed": [
            {name: row[name] for name in SHOWN_FIELDS} | {"movement_before": old, "why": pair_reason(row)}
            for row, old in zip(rows, before[changed[largest]], strict=True)
        ],
    }


class _Seen(NamedTuple):
    """A run, with its columns under its loss."""

    run: Run
    columns: Columns


SCORED = frozenset({"max_length", "truncation", "tokenization", "chat_template"})
"""What decides which tokens are scored: log-probs of other tokens cannot be compared."""


def _compared(first: _Seen, second: _Seen) -> dict[str, Any]:
    found = compare_runs(first.columns, second.columns)
    if SCORED & set(_differences(first.run, second.run)):
        found["log_probs"] = {}
    return found


def _differences(first: Run, second: Run) -> list[str]:
    """What else than model, data and loss differs between two runs' measurements."""
    found = first.identity.differences(second.identity, ignoring=OTHER_ROWS | {"model", "include_text", "layers"})
    templates = (run.identity.model.get("chat_template") for run in (first, second))
    return found + ["chat_template"] * (len(set(templates)) > 1)


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Runs of one training by their steps; any others as they were named."""
    steps = [run.manifest.get("training_step") for run in runs]
    if len(runs) < 3 or any(step is None for step in steps):
        return list(runs)
    return sorted(runs, key=lambda run: int(run.manifest["training_step"]))


def about_run(run: Run, columns: Columns) -> dict[str, Any]:
    """A run in short, JSON-able.

    Args:
        columns: its columns under its loss.
    """
    measured = columns["status"] == Status.OK.value
    pairs = int(np.count_nonzero(measured))
    movement = columns["movement"][measured]
    no_number: list[Any] = [None]
    means = {side: numbers(columns, f"{side}_log_prob")[measured] for side in ("chosen", "rejected")}
    return {
        "folder": None if run.folder is None else str(run.folder),
        "status": run.status,
        "model": run.identity.model_name,
        "data": run.identity.data_name,
        "training_step": run.manifest.get("training_step"),
        "loss": {**asdict(run.loss), "words": describe_loss(run.loss)},
        "pairs": pairs,
        "movements": {kind.value: share(int(np.count_nonzero(movement == kind.value)), pairs) for kind in Movement},
        "median_cosine": (quantiles(numbers(columns, "cosine")[measured], [0.5]) or no_number)[0],
        "mean_log_probs": {side: _mean(values) for side, values in means.items()},
    }


def _mean(values: Any) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
