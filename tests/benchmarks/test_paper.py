"""The signs of the paper's experiment, on the sample data with one seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.benchmarks.paper import ENDINGS, points_of

STEPS = 15
"""Half of the run: the signs are clear by then."""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Mapping[str, Any]]]:
    """The first and the last measured point of every ending."""
    folders = {ending: tmp_path_factory.mktemp(ending) for ending in ENDINGS}
    return {ending: points_of(ending, 2, folder, 40, STEPS, STEPS) for ending, folder in folders.items()}


def test_the_signs_of_the_paper(ends: Mapping[str, list[Mapping[str, Any]]]) -> None:
    for before, after in ends.values():
        assert (before["step"], after["step"]) == (0, STEPS)
        assert after["margin_change_mean"] > 0
        assert after["rejected_change_mean"] < 0
    one, short, long = ("one_token", "short_ending", "long_ending")
    for moment in (0, 1):
        cosine = {ending: points[moment]["cosine_mean"] for ending, points in ends.items()}
        assert cosine[one] < 0 < cosine[short] < cosine[long]
    chosen = {ending: points[1]["chosen_change_mean"] for ending, points in ends.items()}
    assert chosen[one] > 0
    assert chosen[one] > chosen[short] > chosen[long]
    assert chosen[long] < 0
