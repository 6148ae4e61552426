"""Groups of probe answers: medians, shares, and whether all move one way beyond their errors."""

from __future__ import annotations

import numpy as np
import pytest

from entangle_cli.analysis.agreement import relative_error, slope_of
from entangle_cli.analysis.probe_groups import group_change, group_changes


def of(changes: list[float], error: float = 0.0) -> dict[str, object]:
    count = len(changes)
    return group_change(np.array(changes), np.full(count, error), np.full(count, 2.0))._asdict()


def test_a_group_is_summed_up() -> None:
    found = of([3.0, -1.0, 0.5])
    assert (found["change_median"], found["gains"]) == (0.5, 2)
    assert found["gain_rate"] == pytest.approx(2 / 3)
    assert found["change_per_token"] == pytest.approx(2.5 / 6)
    assert found["all_move"] is None


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ([1.0, 2.0], 0.5, "gain"),
        ([-1.0, -2.0], 0.5, "fall"),
        ([1.0, 2.0], 1.0, None),
        ([-1.0, -2.0], 1.5, None),
        ([1.0, -1.0], 0.0, None),
        ([0.0, 0.0], 0.0, None),
        ([1.0, float("nan")], 0.0, None),
    ],
)
def test_a_whole_group_moves_only_beyond_its_errors(changes: list[float], error: float, expected: str | None) -> None:
    assert of(changes, error)["all_move"] == expected


def test_changes_that_are_not_known_do_not_count() -> None:
    assert of([float("nan"), 2.0])["change_median"] == 2.0
    assert of([float("nan")])["change_median"] is None


def test_groups_keep_their_order() -> None:
    ones = np.ones(3)
    found = group_changes(["b", "a", "b"], np.array([1.0, 2.0, 3.0]), 0 * ones, ones)
    assert [(name, one["change_median"]) for name, one in found.items()] == [("b", 2.0), ("a", 2.0)]


def test_agreement_of_vectors() -> None:
    predicted, measured = np.array([1.0, 2.0]), np.array([2.0, 4.0])
    assert slope_of(predicted, measured) == 2.0
    assert relative_error(predicted, measured) == 0.5
    assert (slope_of(0 * predicted, measured), relative_error(predicted, 0 * measured)) == (None, None)
