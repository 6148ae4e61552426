"""Compares predicted and measured changes of log-probs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from entangle_cli.analysis.movement import movement_names
from entangle_cli.analysis.statistics import Interval, share_interval
from entangle_cli.records.arrays import Floats


class Agreement(NamedTuple):
    """Agreement of one predictor with measured changes."""

    log_probs: int
    """Number of compared log-probs, up to two per pair. Both changes of a compared log-prob are finite."""
    same_sign: int
    interval: Interval | None
    """95 % interval of the share with equal signs."""
    pairs: int
    same_movement: int
    """Pairs with the predicted movement."""
    slope: float | None
    """Slope of the least-squares line through 0, measured over predicted; 1 for a perfect predictor. None if all
    predictions are 0."""
    relative_error: float | None
    """|measured - predicted| / |measured|, norms over all log-probs; None if no log-prob changed."""


def agreement(predicted: Floats, measured: Floats) -> Agreement:
    """Compare predicted and measured changes of log-probs, both [2, pairs]: chosen, then rejected."""
    both = np.isfinite(predicted) & np.isfinite(measured)
    pairs = both.all(axis=0)
    before, after = predicted[both], measured[both]
    same_sign = int(np.count_nonzero(np.sign(before) == np.sign(after)))
    moved = movement_names(*predicted[:, pairs]) == movement_names(*measured[:, pairs])
    return Agreement(
        log_probs=len(before),
        same_sign=same_sign,
        interval=share_interval(same_sign, len(before)),
        pairs=int(pairs.sum()),
        same_movement=int(np.count_nonzero(moved)),
        slope=slope_of(before, after),
        relative_error=relative_error(before, after),
    )


def slope_of(predicted: Floats, measured: Floats) -> float | None:
    """Slope of the least-squares line through 0, measured over predicted; None if all predictions are 0."""
    square = float(predicted @ predicted)
    return float(predicted @ measured) / square if square > 0 else None


def relative_error(predicted: Floats, measured: Floats) -> float | None:
    """|measured - predicted| / |measured| of two vectors; None if nothing changed."""
    length = float(np.linalg.norm(measured))
    return float(np.linalg.norm(measured - predicted)) / length if length > 0 else None
