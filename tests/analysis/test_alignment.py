"""Distances between token sequences against the textbook recursion."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.analysis.alignment import edit_distance, shared_suffix
from entangle_cli.records.measurement import shared_prefix

TOKENS = st.lists(st.integers(0, 3), max_size=9).map(tuple)


def textbook(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        replaced = distance(i - 1, j - 1) + (left[i - 1] != right[j - 1])
        return min(replaced, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(left), len(right))


@given(TOKENS, TOKENS)
def test_edit_distance_matches_levenshtein(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    assert edit_distance(left, right) == textbook(left, right) == edit_distance(right, left)


@pytest.mark.parametrize(
    ("left", "right", "prefix", "suffix"),
    [
        ((1, 2, 3, 4), (1, 9, 4), 1, 1),
        ((1, 2, 1), (1, 2, 1), 3, 0),
        ((1, 2, 1), (1, 2, 1, 2, 1), 3, 0),
        ((2, 1), (3, 2, 1), 0, 2),
        ((), (1,), 0, 0),
        ((1, 1), (1, 2, 1), 1, 1),
    ],
)
def test_shared_ends_never_overlap(left: tuple[int, ...], right: tuple[int, ...], prefix: int, suffix: int) -> None:
    assert (shared_prefix(left, right), shared_suffix(left, right)) == (prefix, suffix)
