"""Pairs that repeat one another, and pairs that contradict one another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Repetition(NamedTuple):
    """How often a data set says the same, and how often the opposite."""

    repeated: int
    """Pairs that repeat an earlier one."""
    contradicted: int
    """Pairs of answers to one prompt that are preferred both ways."""


def repetition(pair_ids: NDArray[np.int64], unordered_ids: NDArray[np.int64]) -> Repetition:
    """Count them.

    Args:
        pair_ids: a number for each pair, [pairs].
        unordered_ids: a number for each pair that is the same whichever answer is the chosen one, [pairs].
    """
    # Sorted, not by `np.unique`: that loads `numpy.ma`, which takes a tenth of a short command.
    order = np.lexsort([pair_ids, unordered_ids])
    answers_change = _changes(unordered_ids[order])
    pair_changes = answers_change | _changes(pair_ids[order])
    ways = np.bincount(np.cumsum(answers_change), weights=pair_changes)
    return Repetition(len(order) - int(np.count_nonzero(pair_changes)), int(np.count_nonzero(ways > 1)))


def _changes(ordered: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a value differs from the one before it; true at the first."""
    differs: NDArray[np.bool_] = np.diff(ordered, prepend=ordered[:1] - 1) != 0
    return differs
