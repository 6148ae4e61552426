"""Similarity of two answers by their tokens."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from entangle_cli.records.measurement import shared_prefix


def shared_suffix(left: Sequence[int], right: Sequence[int]) -> int:
    """Number of tokens in the shared suffix, excluding the shared prefix."""
    most = min(len(left), len(right)) - shared_prefix(left, right)
    return min(most, shared_prefix(left[::-1], right[::-1]))


def edit_distance(left: Sequence[int], right: Sequence[int]) -> int:
    """Levenshtein distance: the smallest number of insertions, deletions and replacements of one token."""
    return int(Levenshtein.distance(left, right))
