"""Windows against the movement itself, and the best value against an exhaustive search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.analysis.loss_comparison import compare_losses, customary_settings, nearest_value
from entangle_cli.analysis.losses.loss import Coefficients, LossPoint
from entangle_cli.analysis.losses.table import LOSSES, loss_coefficients
from entangle_cli.analysis.movement import Geometry, pair_movements
from entangle_cli.analysis.windows import (
    BestValue,
    Windows,
    best_value,
    likelihood_windows,
    penalty_windows,
    ratio_windows,
    shift_windows,
)
from entangle_cli.records.pair import Movement
from entangle_cli.records.settings import LossSettings


def drawn(seed: int, pairs: int = 200) -> tuple[Geometry, LossPoint]:
    """Pairs of all kinds. The chosen answers have fallen below the reference."""
    generator = np.random.default_rng(seed)
    norms = np.exp(generator.normal(0, 0.5, (2, pairs)))
    cosine = np.clip(generator.normal(0.7, 0.4, pairs), -1, 1)
    geometry = Geometry(norms[0] ** 2, norms[1] ** 2, cosine * norms[0] * norms[1])
    log_probs = -generator.uniform(5, 50, (2, pairs))
    lengths = generator.integers(3, 40, (2, pairs)).astype(float)
    return geometry, LossPoint(*log_probs, log_probs[0] + 3.0, log_probs[1] + 1.0, *lengths)


def separating(geometry: Geometry, coefficients: Coefficients) -> np.ndarray:
    return pair_movements(geometry, coefficients, 0.0).movement == Movement.SEPARATES.value


@pytest.mark.parametrize("ratio", [0.3, 0.9, 1.0, 1.4, 6.0])
def test_a_ratio_in_its_window_separates(ratio: float) -> None:
    geometry, _ = drawn(0)
    windows = ratio_windows(geometry)
    ones = np.ones(len(windows.low))
    inside = (windows.low < ratio) & (ratio < windows.high)
    np.testing.assert_array_equal(inside, separating(geometry, Coefficients(ratio * ones, ones)))
    assert 0 < inside.sum() < len(inside)


@pytest.mark.parametrize("value", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(
    ("loss", "option"), [("dpop", "penalty"), ("sigmoid_sft", "nll_weight"), ("dpo_shift", "factor")]
)
def test_a_weight_in_its_window_separates_under_the_loss_itself(loss: str, option: str, value: float) -> None:
    geometry, point = drawn(1)
    ratios = ratio_windows(geometry)
    push = loss_coefficients(LossSettings("sigmoid"), point).chosen
    windows = {
        "dpop": penalty_windows(ratios),
        "sigmoid_sft": likelihood_windows(ratios, push, point.chosen_length),
        "dpo_shift": shift_windows(ratios),
    }[loss]
    inside = (windows.low < value) & (value < windows.high)
    coefficients = loss_coefficients(LossSettings(loss, options={option: value}), point)
    np.testing.assert_array_equal(inside, separating(geometry, coefficients))
    assert 0 < inside.sum() < len(inside)


ENDS = st.lists(st.tuples(st.integers(-3, 12), st.integers(-3, 12)), min_size=1, max_size=12)


@given(ENDS)
def test_no_value_lies_in_more_windows_than_the_best(ends: list[tuple[int, int]]) -> None:
    low, high = np.array(ends, dtype=float).T
    best = best_value(Windows(low, high))
    tried = {value: int(np.count_nonzero((low < value) & (value < high))) for value in np.arange(0.125, 14, 0.25)}
    most = max(tried.values())
    if best is None:
        assert most == 0
        return
    assert best.pairs == most
    assert best.low < best.high
    for value, count in tried.items():
        if best.low < value < best.high:
            assert count == most


def test_windows_that_never_end_have_no_best_upper_end() -> None:
    geometry = Geometry(np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([-0.5, 0.0]))
    best = best_value(ratio_windows(geometry))
    assert best is not None
    assert (best.low, best.high, best.pairs) == (0.0, np.inf, 2)


def test_pairs_without_a_gradient_have_no_window() -> None:
    geometry = Geometry(np.array([0.0, np.nan]), np.array([2.0, 1.0]), np.array([0.0, 0.1]))
    assert np.isnan(ratio_windows(geometry)).all()
    assert best_value(ratio_windows(geometry)) is None


def test_the_comparison_counts_what_each_loss_does() -> None:
    geometry, point = drawn(2)
    settings = LossSettings("simpo", 2.0, {"gamma": 1.5})
    comparison = compare_losses(geometry, point, settings, 0.0)
    assert [outcome.name for outcome in comparison.outcomes] == ["simpo", *(name for name in LOSSES if name != "simpo")]
    movement_of = {}
    for outcome in comparison.outcomes:
        own = settings if outcome.name == "simpo" else customary_settings(LOSSES[outcome.name])
        movements = pair_movements(geometry, loss_coefficients(own, point), 0.0)
        movement_of[outcome.name] = movements.movement.tolist()
        same = [name for name, known in movement_of.items() if known == movement_of[outcome.name]]
        assert outcome.same_as == (None if same == [outcome.name] else same[0])
        assert outcome.counts == {m.value: int((movements.movement == m.value).sum()) for m in Movement}
        assert sum(outcome.counts.values()) + outcome.undefined == comparison.pairs
    assert comparison.outcomes[0].numbers == {"beta": 2.0, "gamma": 1.5, "nll_weight": 0.0}
    ratio, value = comparison.remedies[0].best, comparison.remedies[0].value
    assert ratio is not None
    assert ratio.pairs >= next(each for each in comparison.outcomes if each.name == "sigmoid").counts["separates"]
    assert comparison.separable >= ratio.pairs
    assert value is not None
    assert ratio.low < value < ratio.high


@pytest.mark.parametrize(
    ("low", "high", "present", "value"),
    [(1.0612, 1.09, 1.0, 1.07), (1.0612, 1.0631, 1.0, 1.06215), (0.2, 0.8616, 1.0, 0.861), (0.9, 1.1, 1.0, 1.0)],
)
def test_the_smallest_change_that_helps_most(low: float, high: float, present: float, value: float) -> None:
    assert nearest_value(BestValue(low, high, 5), present) == pytest.approx(value)
