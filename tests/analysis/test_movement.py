"""Movements against the definition, against real steps in float64, and at the edge cases."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from entangle_cli.analysis.losses.loss import Coefficients, LossPoint
from entangle_cli.analysis.losses.table import loss_coefficients
from entangle_cli.analysis.movement import (
    Geometry,
    Movements,
    geometry_fields,
    pair_movements,
)
from entangle_cli.records.pair import Movement
from entangle_cli.records.settings import LossSettings

# float64 products and one subtraction; errors are relative to the subtracted terms.
FLOAT64_RTOL = 1e-14
# Step size of the real steps. The second order is lr * curvature; the curvature is at most a few units here.
STEP = 1e-6
# First order against a real step of that size, and rounding of z(after) - z(before) over STEP.
STEP_RTOL = 2e-5

examples = settings(max_examples=200, deadline=None)
squared_norms = st.floats(1e-6, 1e6)
coefficients_of_any_sign = st.floats(-10.0, 10.0)
# Below, a product with P may underflow, and slack would see 0 for a positive number.
positive_coefficients = st.floats(1e-6, 1e3)
cosines = st.floats(-1.0, 1.0)
opposite = {
    "separates": "separates",
    "both_rise": "both_fall",
    "both_fall": "both_rise",
    "reversed": "reversed",
    "still": "still",
}


def geometry(a: float, b: float, p: float) -> Geometry:
    return Geometry(*(np.array([float(value)]) for value in (a, b, p)))


def move(a: float, b: float, p: float, d_c: float = 1.0, d_r: float = 1.0, noise: float = 0.0) -> Movements:
    coefficients = Coefficients(np.array([float(d_c)]), np.array([float(d_r)]))
    return pair_movements(geometry(a, b, p), coefficients, noise)


def scales(a: float, b: float, d_c: float, d_r: float) -> tuple[float, float]:
    """The sizes of the subtracted terms in both deltas."""
    norms = math.sqrt(a * b)
    return abs(d_c) * a + abs(d_r) * norms, abs(d_c) * norms + abs(d_r) * b


@examples
@given(squared_norms, squared_norms, cosines, coefficients_of_any_sign, coefficients_of_any_sign)
def test_deltas_match_the_definition(a: float, b: float, cosine: float, d_c: float, d_r: float) -> None:
    p = cosine * math.sqrt(a * b)
    found = move(a, b, p, d_c, d_r)
    chosen_scale, rejected_scale = scales(a, b, d_c, d_r)
    assert abs(found.chosen_delta[0] - (d_c * a - d_r * p)) <= FLOAT64_RTOL * chosen_scale
    assert abs(found.rejected_delta[0] - (d_c * p - d_r * b)) <= FLOAT64_RTOL * rejected_scale


@examples
@given(squared_norms, squared_norms, cosines, coefficients_of_any_sign, coefficients_of_any_sign)
def test_the_loss_never_rises(a: float, b: float, cosine: float, d_c: float, d_r: float) -> None:
    found = move(a, b, cosine * math.sqrt(a * b), d_c, d_r)
    fall = d_c * found.chosen_delta[0] - d_r * found.rejected_delta[0]
    chosen_scale, rejected_scale = scales(a, b, d_c, d_r)
    assert fall >= -FLOAT64_RTOL * (abs(d_c) * chosen_scale + abs(d_r) * rejected_scale)


@examples
@given(squared_norms, squared_norms, cosines, coefficients_of_any_sign, coefficients_of_any_sign)
def test_swapping_the_roles_swaps_the_deltas(a: float, b: float, cosine: float, d_c: float, d_r: float) -> None:
    p = cosine * math.sqrt(a * b)
    found = move(a, b, p, d_c, d_r, noise=1e-6)
    # The same step with the roles of the responses swapped: -grad loss keeps both terms.
    swapped = move(b, a, p, -d_r, -d_c, noise=1e-6)
    assert swapped.chosen_delta[0] == found.rejected_delta[0]
    assert swapped.rejected_delta[0] == found.chosen_delta[0]
    assert swapped.uncertain[0] == found.uncertain[0]
    # The opposite step, towards the other response, reverses all movements.
    mirrored = move(b, a, p, d_r, d_c, noise=1e-6)
    assert mirrored.chosen_delta[0] == -found.rejected_delta[0]
    assert mirrored.rejected_delta[0] == -found.chosen_delta[0]
    assert mirrored.movement[0] == opposite[found.movement[0]]
    np.testing.assert_array_equal(mirrored.slack, found.slack)


@examples
@given(
    squared_norms,
    st.floats(-1.0, 1.0) | st.floats(-1e-15, 1e-15),
    cosines | st.floats(1.0 - 1e-15, 1.0 + 4e-7),
    positive_coefficients,
)
def test_equal_positive_coefficients_never_reverse(a: float, log_ratio: float, cosine: float, push: float) -> None:
    b = a * math.exp(log_ratio)
    found = move(a, b, cosine * math.sqrt(a * b), push, push)
    assert found.movement[0] in ("separates", "both_rise", "both_fall", "still")


@examples
@given(squared_norms, squared_norms, cosines, positive_coefficients, positive_coefficients)
def test_slack_agrees_with_the_movement(a: float, b: float, cosine: float, d_c: float, d_r: float) -> None:
    p = cosine * math.sqrt(a * b)
    found = move(a, b, p, d_c, d_r)
    slack, movement = found.slack[0], found.movement[0]
    if p <= 0:
        assert slack == math.inf
    if slack > 0:
        assert movement == "separates"
    if slack < 0:
        assert movement in ("both_fall", "both_rise")
        fell = d_c * math.sqrt(a) < d_r * math.sqrt(b)
        assert (movement == "both_fall") == fell
    if movement == "separates" and found.chosen_delta[0] > 0 > found.rejected_delta[0]:
        assert slack > 0


@examples
@given(squared_norms, squared_norms, st.floats(1e-6, 1.0), positive_coefficients, positive_coefficients)
def test_slack_matches_the_formula(a: float, b: float, cosine: float, d_c: float, d_r: float) -> None:
    log_kappa = math.log(d_c / d_r) + 0.5 * math.log(a / b)
    expected = -math.log(cosine) - abs(log_kappa)
    found = move(a, b, cosine * math.sqrt(a * b), d_c, d_r)
    # Absolute: slack is a difference of logarithms of at most 40.
    assert abs(found.slack[0] - expected) <= 40 * FLOAT64_RTOL


@examples
@given(
    squared_norms,
    squared_norms,
    st.floats(0.01, 0.99),
    positive_coefficients,
    positive_coefficients,
)
def test_the_band_of_separating_ratios(a: float, b: float, cosine: float, d_c: float, d_r: float) -> None:
    p = cosine * math.sqrt(a * b)
    ratio = d_c / d_r
    # A gap of rounding at the two ends.
    if abs(math.log(ratio * a / p)) < 1e-12 or abs(math.log(ratio * p / b)) < 1e-12:
        return
    found = move(a, b, p, d_c, d_r)
    assert (found.movement[0] == "separates") == (p / a < ratio < b / p)


@pytest.mark.parametrize(
    ("a", "b", "p", "movement"),
    [
        (1.0, 4.0, 0.9, "separates"),
        (1.0, 4.0, 1.1, "both_fall"),
        (4.0, 1.0, 1.1, "both_rise"),
        (1.0, 4.0, -1.9, "separates"),
    ],
)
def test_the_three_cases_of_the_paper(a: float, b: float, p: float, movement: str) -> None:
    found = move(a, b, p)
    assert found.movement[0] == movement
    assert not found.uncertain[0]


INFINITE, UNDEFINED = math.inf, math.nan


EDGE_CASES = {
    "identical responses, DPO": (2, 2, 2, 1, 1, "still", 0.0),
    "identical responses, d_c > d_r": (2, 2, 2, 3, 1, "both_rise", -math.log(3)),
    "identical responses, d_c < d_r": (2, 2, 2, 1, 3, "both_fall", -math.log(3)),
    "chosen gradient is zero": (0, 2, 0, 1, 1, "separates", UNDEFINED),
    "rejected gradient is zero": (2, 0, 0, 1, 1, "separates", UNDEFINED),
    "both gradients are zero": (0, 0, 0, 1, 1, "still", UNDEFINED),
    "d_r = 0, P > 0: both rise": (2, 2, 1, 1, 0, "both_rise", UNDEFINED),
    "d_r = 0, P = 0: rejected still": (2, 2, 0, 1, 0, "separates", UNDEFINED),
    "d_r = 0, P < 0": (2, 2, -1, 1, 0, "separates", UNDEFINED),
    "d_c = 0, P > 0: both fall": (2, 2, 1, 0, 1, "both_fall", UNDEFINED),
    "d_c = 0, P = 0: chosen still": (2, 2, 0, 0, 1, "separates", UNDEFINED),
    "d_c = 0, P < 0": (2, 2, -1, 0, 1, "separates", UNDEFINED),
    "inactive": (2, 2, 1, 0, 0, "still", UNDEFINED),
    "both negative: case 1 reversed": (2, 2, 1, -1, -1, "reversed", UNDEFINED),
    "both negative: case 2 rises": (1, 4, 1.5, -1, -1, "both_rise", UNDEFINED),
    "both negative: case 3 falls": (4, 1, 1.5, -1, -1, "both_fall", UNDEFINED),
    "d_c < 0 < d_r, P > 0": (2, 2, 1, -1, 1, "both_fall", UNDEFINED),
    "d_c < 0 < d_r, P < 0, d_c large": (2, 2, -1, -3, 1, "reversed", UNDEFINED),
    "d_r < 0 < d_c, P > 0": (2, 2, 1, 1, -1, "both_rise", UNDEFINED),
    "P < 0": (2, 2, -1, 1, 1, "separates", INFINITE),
    "P = 0": (2, 2, 0, 1, 1, "separates", INFINITE),
    "chosen still, rejected falls": (1, 4, 1, 1, 1, "separates", 0.0),
    "chosen rises, rejected still": (4, 1, 1, 1, 1, "separates", 0.0),
    "chosen falls, rejected still": (2, 2, 0, -1, 0, "both_fall", UNDEFINED),
    "chosen still, rejected rises": (2, 2, 0, 0, -1, "both_rise", UNDEFINED),
    "geometry is NaN": (math.nan, 2, 1, 1, 1, None, UNDEFINED),
    "inner product is NaN": (2, 2, math.nan, 1, 1, None, UNDEFINED),
    "inner product is infinite": (2, 2, math.inf, 1, 1, None, UNDEFINED),
    "squared norm is negative": (2, -2, 1, 1, 1, None, UNDEFINED),
    "coefficient is NaN": (2, 2, 1, math.nan, 1, None, UNDEFINED),
    "coefficient is infinite": (2, 2, 1, 1, math.inf, None, UNDEFINED),
    "infinite coefficient of a zero": (2, 0, 0, 1, math.inf, None, UNDEFINED),
}


@pytest.mark.parametrize(("a", "b", "p", "d_c", "d_r", "movement", "slack"), EDGE_CASES.values(), ids=EDGE_CASES.keys())
def test_edge_cases(
    a: float,
    b: float,
    p: float,
    d_c: float,
    d_r: float,
    movement: str | None,
    slack: float,
) -> None:
    found = move(a, b, p, d_c, d_r)
    assert found.movement[0] == movement
    np.testing.assert_allclose(found.slack, [slack], rtol=FLOAT64_RTOL, atol=0)
    if movement is None:
        assert np.isnan(found.chosen_delta[0])
        assert np.isnan(found.rejected_delta[0])
        assert not found.uncertain[0]


DOUBTS = {
    "chosen near its boundary": (1, 4, 1.0 + 1e-6, 1, 1, 1e-6, True),
    "chosen just outside the noise": (1, 4, 1.0 + 4e-6, 1, 1, 1e-6, False),
    "rejected near its boundary": (4, 1, 1.0 + 1e-6, 1, 1, 1e-6, True),
    "rejected just outside the noise": (4, 1, 1.0 + 4e-6, 1, 1, 1e-6, False),
    "the other norm counts": (1, 1e4, 1.0 + 5e-5, 1, 1, 1e-6, True),
    "no noise, no boundary": (1, 4, 1.1, 1, 1, 0.0, False),
    "no noise, on the boundary": (1, 4, 1, 1, 1, 0.0, True),
    "identical responses": (2, 2, 2, 1, 1, 0.0, True),
    "orthogonal, one coefficient 0": (2, 2, 0, 1, 0, 1e-6, True),
    "nothing pushes": (2, 2, 1, 0, 0, 1e-6, False),
    "no gradient at all": (0, 0, 0, 1, 1, 1e-6, False),
    "d_c < 0 counts by its size": (1, 4, 1.0 + 2e-6, -1, -1, 1e-6, True),
    "d_r < 0 counts by its size": (4, 1, 1.0 + 2e-6, -1, -1, 1e-6, True),
}


@pytest.mark.parametrize(("a", "b", "p", "d_c", "d_r", "noise", "uncertain"), DOUBTS.values(), ids=DOUBTS.keys())
def test_uncertain(
    a: float,
    b: float,
    p: float,
    d_c: float,
    d_r: float,
    noise: float,
    uncertain: bool,
) -> None:
    assert move(a, b, p, d_c, d_r, noise).uncertain[0] == uncertain


@pytest.mark.parametrize("noise", [-1e-6, math.nan, math.inf])
def test_invalid_noise_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match="noise"):
        move(1, 1, 0, noise=noise)


def test_rounding_beyond_cauchy_schwarz_is_undone_and_more_is_not() -> None:
    assert geometry_fields(geometry(2, 2, 2 * (1 + 1e-7))).cosine[0] == 1.0
    assert geometry_fields(geometry(2, 2, -2 * (1 + 1e-7))).cosine[0] == -1.0
    assert geometry_fields(geometry(2, 2, 2.1)).cosine[0] == pytest.approx(1.05)
    assert move(2, 2, 2 * (1 + 1e-7)).movement[0] == "still"
    assert move(2, 2, 2.01, noise=1e-2).movement[0] == "still"
    assert move(2, 2, 2.1).movement[0] == "reversed"


def test_geometry_fields_match_the_definitions() -> None:
    fields = geometry_fields(
        Geometry(
            np.array([4.0, 1.0, 0.0, 1.0, 0.0, np.nan]),
            np.array([1.0, 16.0, 1.0, 0.0, 0.0, 1.0]),
            np.array([1.0, -2.0, 0.0, 0.0, 0.0, 1.0]),
        )
    )
    nan = np.nan
    np.testing.assert_array_equal(fields.cosine, [0.5, -0.5, nan, nan, nan, nan])
    np.testing.assert_array_equal(fields.norm_ratio, [2.0, 0.25, 0.0, nan, nan, nan])
    np.testing.assert_array_equal(fields.chosen_condition, [0.25, -2.0, nan, 0.0, nan, nan])
    np.testing.assert_array_equal(fields.rejected_condition, [1.0, -0.125, 0.0, nan, nan, 1.0])


@examples
@given(squared_norms, squared_norms, cosines)
def test_cosine_lies_within_one(a: float, b: float, cosine: float) -> None:
    found = geometry_fields(geometry(a, b, cosine * math.sqrt(a * b))).cosine[0]
    assert -1.0 <= found <= 1.0
    assert found == pytest.approx(cosine, rel=1e-14, abs=1e-300)


def test_pairs_are_independent() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.uniform(0.1, 10, (2, 100))
    p = generator.uniform(-1, 1, 100) * np.sqrt(a * b)
    d_c, d_r = generator.uniform(-1, 2, (2, 100))
    together = pair_movements(Geometry(a, b, p), Coefficients(d_c, d_r), 1e-6)
    assert len(set(together.movement)) == 4
    for row in range(100):
        alone = move(a[row], b[row], p[row], d_c[row], d_r[row], 1e-6)
        assert alone.movement[0] == together.movement[row]
        assert alone.chosen_delta[0] == together.chosen_delta[row]
        np.testing.assert_array_equal(alone.slack[0], together.slack[row])


def test_movement_names_are_those_of_the_records() -> None:
    assert set(opposite) == {kind.value for kind in Movement}


# The losses of the real steps: one of each family, written independently of the package.
StepLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
STEP_LOSSES: dict[str, StepLoss] = {
    "sigmoid": lambda r_c, r_r: -logsigmoid(0.1 * (r_c - r_r)),
    "ipo": lambda r_c, r_r: (r_c / 3 - r_r / 5 - 5.0) ** 2,
    "bco_pair": lambda r_c, r_r: -logsigmoid(0.1 * r_c) - logsigmoid(-0.1 * r_r),
    "sppo_hard": lambda r_c, r_r: (r_c - 5.0) ** 2 + (r_r + 5.0) ** 2,
}


def log_probs(theta: torch.Tensor, slopes: torch.Tensor, curves: torch.Tensor) -> torch.Tensor:
    """Two quadratic functions of the parameters, in place of the two log-probs."""
    return slopes @ theta - 0.5 * curves @ theta**2 - 20.0


def one_real_step(name: str, seed: int) -> tuple[torch.Tensor, Movements]:
    """The change of both log-probs per learning rate after an SGD step, and the prediction."""
    generator = torch.Generator().manual_seed(seed)
    shared, own = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in (4, (2, 4)))
    sizes = torch.exp(torch.randn(2, 1, generator=generator, dtype=torch.float64))
    slopes = sizes * (shared + 0.4 * own)
    curves = torch.rand(2, 4, generator=generator, dtype=torch.float64)
    theta = torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_(True)
    reference = log_probs(theta.detach(), slopes, curves) + torch.randn(2, generator=generator, dtype=torch.float64)

    before = log_probs(theta, slopes, curves)
    gradients = torch.stack([torch.autograd.grad(before[side], theta, retain_graph=True)[0] for side in (0, 1)])
    log_ratios = before - reference
    optimizer = torch.optim.SGD([theta], lr=STEP)
    torch.autograd.backward(STEP_LOSSES[name](log_ratios[0], log_ratios[1]))
    optimizer.step()
    after = log_probs(theta, slopes, curves)

    gram = (gradients @ gradients.T).numpy()
    z_c, z_r = before.detach().numpy()[:, None]
    ref_c, ref_r = reference.numpy()[:, None]
    point = LossPoint(z_c, z_r, ref_c, ref_r, np.array([3.0]), np.array([5.0]))
    coefficients = loss_coefficients(LossSettings(name, 0.1), point)
    predicted = pair_movements(Geometry(gram[:1, 0], gram[1:, 1], gram[:1, 1]), coefficients, noise=1e-3)
    return (after - before).detach() / STEP, predicted


@pytest.mark.parametrize("name", STEP_LOSSES)
def test_a_real_step_moves_as_predicted(name: str) -> None:
    seen = set()
    for seed in range(60):
        change, predicted = one_real_step(name, seed)
        deltas = np.concatenate([predicted.chosen_delta, predicted.rejected_delta])
        scale = np.abs(deltas).max()
        np.testing.assert_allclose(change.numpy(), deltas, rtol=0, atol=STEP_RTOL * scale)
        if not predicted.uncertain[0]:
            rises = (bool(change[0] > 0), bool(change[1] > 0))
            names = {
                (True, False): "separates",
                (True, True): "both_rise",
                (False, False): "both_fall",
                (False, True): "reversed",
            }
            assert predicted.movement[0] == names[rises]
            seen.add(predicted.movement[0])
    assert {"separates", "both_rise", "both_fall"} <= seen


def test_a_margin_can_fall_if_the_coefficients_differ() -> None:
    """The margin is guaranteed to rise only with equal coefficients."""
    geometry = Geometry(np.array([1.44]), np.array([1.0]), np.array([0.999 * 1.2]))
    unequal = pair_movements(geometry, Coefficients(np.array([1.0]), np.array([1.5])), 0.0)
    assert (unequal.chosen_delta - unequal.rejected_delta)[0] == pytest.approx(-0.057, abs=1e-12)
    equal = pair_movements(geometry, Coefficients(np.array([1.0]), np.array([1.0])), 0.0)
    assert (equal.chosen_delta - equal.rejected_delta)[0] > 0
