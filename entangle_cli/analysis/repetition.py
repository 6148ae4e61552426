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
    distinct = np.unique(np.stack([unordered_ids, pair_ids]), axis=1)
    _, ways = np.unique(distinct[0], return_counts=True)
    return Repetition(len(pair_ids) - distinct.shape[1], int(np.count_nonzero(ways > 1)))
