"""Rows of scored positions."""

from __future__ import annotations

import torch

from entangle_cli.engine.scored import Scored

SCORED = Scored.from_lengths([3, 1, 2, 4], torch.device("cpu"))


def test_rows_follow_one_another_and_are_padded_to_the_longest() -> None:
    assert SCORED.index_BR.tolist() == [[0, 1, 2, -1], [3, -1, -1, -1], [4, 5, -1, -1], [6, 7, 8, 9]]
    assert SCORED.pairs == [(slice(0, 3), slice(4, 6)), (slice(3, 4), slice(6, 10))]


def test_sums_are_those_of_each_rows_own_positions() -> None:
    values = torch.randn(10, 5, dtype=torch.bfloat16)
    expected = torch.stack([values[rows].double().sum(0) for rows in SCORED.slices])
    torch.testing.assert_close(SCORED.row_sums(values), expected, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(SCORED.row_sums(values[:, 0]), expected[:, 0], rtol=1e-12, atol=0.0)
