"""How log-probs really moved between two points of a training, and the gradient geometry at the second one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from entangle_cli.analysis.movement import movement_names
from entangle_cli.analysis.rules import MOVEMENT_RATES
from entangle_cli.analysis.statistics import mean, quantiles
from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import PairRecord

GEOMETRY_FIELDS = (
    "cosine",
    "norm_ratio",
    "chosen_grad_norm",
    "rejected_grad_norm",
    "chosen_condition",
    "rejected_condition",
)
"""Fields whose median is logged. Ratios have outliers that would move a mean."""

MARGIN_RATE = "margin_rises_rate"
"""Share of the pairs whose chosen answer gained on the rejected one: DPO's accuracy, if training started from the
reference."""

OBSERVED_RATES = (*MOVEMENT_RATES, MARGIN_RATE)
CHANGES = ("chosen_change_mean", "rejected_change_mean", "margin_change_mean")


def log_probs_of(records: Sequence[PairRecord]) -> Floats:
    """Log-probs of the chosen and the rejected answers, nats, [2, pairs]; NaN if undefined."""
    return np.array(
        [[getattr(record, f"{side}_log_prob") for record in records] for side in ("chosen", "rejected")], dtype=float
    ).reshape(2, -1)


def observed_metrics(records: Sequence[PairRecord], start: Floats) -> dict[str, float]:
    """Means of log-probs and of their changes, rates of observed movements, and the mean and medians of the geometry.

    Args:
        records: the pairs now.
        start: their log-probs at the start, [2, pairs].
    Returns:
        Metric to value. Changes are in nats since the start. A metric without a defined pair is left out. Without any
        change, as at the start itself, there are no rates.
    """
    now = log_probs_of(records)
    changes = now - start
    metrics = {
        "chosen_log_prob_mean": mean(now[0]),
        "rejected_log_prob_mean": mean(now[1]),
        "chosen_change_mean": mean(changes[0]),
        "rejected_change_mean": mean(changes[1]),
        "margin_change_mean": mean(changes[0] - changes[1]),
        **observed_rates(changes),
        "cosine_mean": mean(_column(records, "cosine")),
        **{f"{name}_median": _median(_column(records, name)) for name in GEOMETRY_FIELDS},
    }
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def observed_rates(changes: Floats) -> Mapping[str, float]:
    """Shares of the pairs by movement, from real changes [2, pairs]; empty if nothing moved."""
    names = [name for name in movement_names(*changes).tolist() if name is not None]
    if not names or not np.nan_to_num(changes).any():
        return {}
    return {
        **{
            rate: sum(names.count(movement.value) for movement in movements) / len(names)
            for rate, movements in MOVEMENT_RATES.items()
        },
        MARGIN_RATE: float((changes[0] > changes[1])[np.isfinite(changes).all(axis=0)].mean()),
    }


def _column(records: Sequence[PairRecord], name: str) -> Floats:
    return np.array([getattr(record, name) for record in records], dtype=float)


def _median(values: Floats) -> float:
    return (quantiles(values[np.isfinite(values)], [0.5]) or [math.nan])[0]
