"""Similarity of two answers by their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entangle_cli.records.measurement import shared_prefix


def shared_suffix(left: Sequence[int], right: Sequence[int]) -> int:
    """Number of tokens in the shared suffix, excluding the shared prefix."""
    most = min(len(left), len(right)) - shared_prefix(left, right)
    return min(most, shared_prefix(left[::-1], right[::-1]))


def edit_distance(left: Sequence[int], right: Sequence[int]) -> int:
    """Levenshtein distance: the smallest number of insertions, deletions and replacements of one token.

    Row by row (Wagner & Fischer, J. ACM 21, 1974). Within a row, an entry can come from its left neighbour at a cost of
    1. The resulting minimum over j <= i of (entry_j + i - j) is a running minimum of entry_j - j, plus i.

    Cost: O(len(left) * len(right)) time, with vectors of len(right).
    """
    prefix, suffix = shared_prefix(left, right), shared_suffix(left, right)
    left, right = left[prefix : len(left) - suffix], right[prefix : len(right) - suffix]
    columns, offsets = np.asarray(right, dtype=np.int64), np.arange(len(right) + 1)
    row = offsets.copy()
    for count, token in enumerate(left, start=1):
        below = row + 1
        below[0] = count
        below[1:] = np.minimum(below[1:], row[:-1] + (columns != token))
        row = np.minimum.accumulate(below - offsets) + offsets
    return int(row[-1])
