"""Repeated and contradictory pairs, against counts from a loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.analysis.repetition import repetition


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans())))
def test_counts_match_a_loop(pairs: list[tuple[int, bool]]) -> None:
    """Five sets of two answers. Each pair is one of these sets, in either order."""
    unordered = np.array([which for which, _ in pairs], dtype=np.int64)
    ids = np.array([2 * which + swapped for which, swapped in pairs], dtype=np.int64)
    repeated = sum(pair in pairs[:place] for place, pair in enumerate(pairs))
    contradicted = sum({(which, False), (which, True)} <= set(pairs) for which in range(5))
    assert repetition(ids, unordered) == (repeated, contradicted)
