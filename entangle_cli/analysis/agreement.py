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
    square, length = float(before @ before), float(np.linalg.norm(after))
    return Agreement(
        log_probs=len(before),
        same_sign=same_sign,
        interval=share_interval(same_sign, len(before)),
        pairs=int(pairs.sum()),
        same_movement=int(np.count_nonzero(moved)),
        slope=float(before @ after) / square if square > 0 else None,
        relative_error=float(np.linalg.norm(after - before)) / length if length > 0 else None,
    )
