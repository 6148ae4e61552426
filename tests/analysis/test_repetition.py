"""Repeated and contradicted pairs, against counting them one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.analysis.repetition import repetition


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans())))
def test_counted_one_by_one(pairs: list[tuple[int, bool]]) -> None:
    """A pair is one of five sets of two answers, and which of the two is the chosen one."""
    unordered = np.array([which for which, _ in pairs], dtype=np.int64)
    ids = np.array([2 * which + swapped for which, swapped in pairs], dtype=np.int64)
    repeated = sum(pair in pairs[:place] for place, pair in enumerate(pairs))
    contradicted = sum({(which, False), (which, True)} <= set(pairs) for which in range(5))
    assert repetition(ids, unordered) == (repeated, contradicted)
