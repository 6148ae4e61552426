"""Counts repeated pairs and contradictory pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Repetition(NamedTuple):
    """Counts of repeated and contradictory pairs in a data set."""

    repeated: int
    """Pairs that are equal to an earlier pair."""
    contradicted: int
    """Pairs of answers to one prompt for which the data set holds both preferences."""


def repetition(pair_ids: NDArray[np.int64], unordered_ids: NDArray[np.int64]) -> Repetition:
    """Count repeated and contradictory pairs.

    Args:
        pair_ids: a number for each distinct pair, [pairs].
        unordered_ids: a number for each distinct pair, equal if the two answers are swapped, [pairs].
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
