"""Predicts the movement of a pair's log-probs under one small step, from its gradients and the loss coefficients.

Everything is first order in the learning rate, for a step on this pair alone (the `pair-sgd` predictor).
All functions work on arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from entangle_cli.analysis.losses.loss import Coefficients
from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import Movement

Booleans: TypeAlias = NDArray[np.bool_]

CAUCHY_SCHWARZ_ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Relative excess of |inner product| over the product of the norms that counts as rounding: 4 ulp of float32, the least
precise type used to sum squared norms and inner products."""
# Indexed by `movement_names`. The last entry is the undefined movement.
_NAMES = np.array(
    [
        Movement.SEPARATES.value,
        Movement.BOTH_RISE.value,
        Movement.BOTH_FALL.value,
        Movement.REVERSED.value,
        Movement.STILL.value,
        None,
    ],
    dtype=object,
)


@dataclass(frozen=True, eq=False)
class Geometry:
    """The norms and the inner product of a pair's two gradients. Arrays are float64, [pairs]."""

    chosen_squared_norm: Floats
    """|grad chosen_log_prob|^2, A in the formulas."""
    rejected_squared_norm: Floats
    """|grad rejected_log_prob|^2, B in the formulas."""
    inner_product: Floats
    """<grad chosen_log_prob, grad rejected_log_prob>, P in the formulas."""


@dataclass(frozen=True, eq=False)
class GeometryFields:
    """Fields independent of the loss, named as in `PairRecord`. Arrays are float64, [pairs], NaN if undefined."""

    cosine: Floats
    """P / sqrt(A B)."""
    norm_ratio: Floats
    """sqrt(A / B)."""
    chosen_condition: Floats
    """P / A."""
    rejected_condition: Floats
    """P / B."""


@dataclass(frozen=True, eq=False)
class Movements:
    """The fields of a pair under one loss, named as in `PairRecord`. Arrays are [pairs]."""

    chosen_delta: Floats
    """Change of chosen_log_prob in nats per unit learning rate; NaN if undefined."""
    rejected_delta: Floats
    """Change of rejected_log_prob in nats per unit learning rate; NaN if undefined."""
    movement: NDArray[np.object_]
    """The `str` value of a `Movement`; None if a delta is undefined."""
    slack: Floats
    """-log(cosine) - |log(d_c sqrt(A) / (d_r sqrt(B)))|: distance to the nearest boundary in log
    units; +inf if cosine <= 0, NaN if undefined or if a coefficient is not positive."""
    uncertain: Booleans
    """Whether the numerical error can change a delta's sign; False if movement is None."""


@np.errstate(divide="ignore", over="ignore", invalid="ignore")
def geometry_fields(geometry: Geometry) -> GeometryFields:
    """Cosine, norm ratio and the two conditions of every pair.

    cosine = P/sqrt(AB), norm_ratio = sqrt(A/B), conditions P/A and P/B (arXiv 2410.13828).

    Args:
        geometry: squared norms and inner product, [pairs].
    Returns:
        The four fields, [pairs], without unit. NaN if a divisor is 0 or an input is not finite.
        The cosine is clipped to [-1, 1] only within `CAUCHY_SCHWARZ_ROUNDING`. A larger cosine is
        returned unchanged, because it shows that the geometry is wrong.
    Precision: float64.  Cost: O(pairs).
    """
    chosen, rejected = geometry.chosen_squared_norm, geometry.rejected_squared_norm
    norms = _norm_product(chosen, rejected)
    inner = _within_cauchy_schwarz(geometry.inner_product, norms, CAUCHY_SCHWARZ_ROUNDING)
    return GeometryFields(
        cosine=_quotient(inner, norms),
        norm_ratio=_quotient(np.sqrt(chosen), np.sqrt(rejected)),
        chosen_condition=_quotient(geometry.inner_product, chosen),
        rejected_condition=_quotient(geometry.inner_product, rejected),
    )


@np.errstate(divide="ignore", over="ignore", invalid="ignore")
def pair_movements(geometry: Geometry, coefficients: Coefficients, noise: float) -> Movements:
    """The movement of every pair's log-probs under one gradient step on this pair alone.

    chosen_delta = d_c A - d_r P and rejected_delta = d_c P - d_r B, the inner products of the two
    gradients with -grad loss = d_c g_c - d_r g_r (arXiv 2410.13828, Eqs. 4-5, have d_c = d_r).

    Signs are strict. If both deltas are 0, the movement is `still`. If one delta is 0, an unchanged chosen answer
    does not count as falling and an unchanged rejected answer does not count as rising. The other answer then
    determines the movement: `separates` if it moves in the intended direction, otherwise `both_fall` (chosen falls)
    or `both_rise` (rejected rises).

    If |P| exceeds sqrt(AB) within rounding or noise, sqrt(AB) is used instead. `reversed` is then impossible
    for d_c = d_r > 0.

    Args:
        geometry: squared norms and inner product, [pairs].
        coefficients: d_c and d_r of the loss, [pairs]; any sign.
        noise: error of A, B and P relative to A, B and sqrt(AB) in the dtype of the gradients; 0
            for exact gradients.
    Returns:
        The fields of `Movements`, [pairs]. The movement is undefined if the geometry or a coefficient is not finite.
    Raises:
        ValueError: noise is not a finite number of at least 0.
    Precision: float64.  Cost: O(pairs).
    """
    if not 0.0 <= noise < np.inf:
        raise ValueError(f"noise = {noise!r}; expected a finite number of at least 0")
    terms = _terms(geometry, coefficients, max(noise, CAUCHY_SCHWARZ_ROUNDING))
    chosen_delta = terms.chosen_push - terms.chosen_drag
    rejected_delta = terms.rejected_drag - terms.rejected_push
    finite = [np.isfinite(term) for term in (*terms, chosen_delta, rejected_delta)]
    defined = np.logical_and.reduce(finite)
    uncertain = _is_uncertain(chosen_delta, np.abs(terms.chosen_push) + terms.chosen_drag_bound, noise)
    uncertain |= _is_uncertain(rejected_delta, np.abs(terms.rejected_push) + terms.rejected_drag_bound, noise)
    return Movements(
        chosen_delta=np.where(defined, chosen_delta, np.nan),
        rejected_delta=np.where(defined, rejected_delta, np.nan),
        movement=movement_names(chosen_delta, rejected_delta, defined),
        slack=np.where(defined, _slack(terms, geometry, coefficients), np.nan),
        uncertain=defined & uncertain,
    )


class _Terms(NamedTuple):
    """The terms of the two deltas, and upper bounds of the terms with P, [pairs]."""

    chosen_push: Floats
    """d_c A."""
    chosen_drag: Floats
    """d_r P."""
    chosen_drag_bound: Floats
    """|d_r| sqrt(AB)."""
    rejected_push: Floats
    """d_r B."""
    rejected_drag: Floats
    """d_c P."""
    rejected_drag_bound: Floats
    """|d_c| sqrt(AB)."""


def _terms(geometry: Geometry, coefficients: Coefficients, tolerance: float) -> _Terms:
    chosen, rejected = geometry.chosen_squared_norm, geometry.rejected_squared_norm
    norms = _norm_product(chosen, rejected)
    inner = _within_cauchy_schwarz(geometry.inner_product, norms, tolerance)
    return _Terms(
        chosen_push=coefficients.chosen * chosen,
        chosen_drag=coefficients.rejected * inner,
        chosen_drag_bound=np.abs(coefficients.rejected) * norms,
        rejected_push=coefficients.rejected * rejected,
        rejected_drag=coefficients.chosen * inner,
        rejected_drag_bound=np.abs(coefficients.chosen) * norms,
    )


def _norm_product(chosen: Floats, rejected: Floats) -> Floats:
    # sqrt(AB) lies between A and B by definition. Without the clip, rounding could let P exceed both.
    product: Floats = np.sqrt(chosen) * np.sqrt(rejected)
    return np.clip(product, np.minimum(chosen, rejected), np.maximum(chosen, rejected))


def _within_cauchy_schwarz(inner: Floats, norms: Floats, tolerance: float) -> Floats:
    rounded = np.abs(inner) <= norms * (1.0 + tolerance)
    bounded: Floats = np.where(rounded, np.clip(inner, -norms, norms), inner)
    return bounded


def _quotient(dividend: Floats, divisor: Floats) -> Floats:
    quotient = dividend / divisor
    return np.where((divisor > 0) & np.isfinite(quotient), quotient, np.nan)


def movement_names(chosen: Floats, rejected: Floats, defined: Booleans | None = None) -> NDArray[np.object_]:
    """The `str` value of the `Movement` of two changes, [pairs]; None if a change is not finite or not defined."""
    if defined is None:
        defined = np.isfinite(chosen) & np.isfinite(rejected)
    chosen_falls, rejected_rises = chosen < 0, rejected > 0
    # `select` uses the first condition that is true.
    index = np.select(
        [
            ~defined,
            (chosen == 0) & (rejected == 0),
            chosen_falls & rejected_rises,
            chosen_falls,
            rejected_rises,
        ],
        [5, 4, 3, 2, 1],
        default=0,
    )
    names: NDArray[np.object_] = _NAMES[index]
    return names


def _slack(terms: _Terms, geometry: Geometry, coefficients: Coefficients) -> Floats:
    # With kappa = d_c sqrt(A) / (d_r sqrt(B)), -log(cosine) - |log kappa| is the minimum of
    # log(d_c A / (d_r P)) and log(d_r B / (d_c P)). In this form the sign always matches the deltas,
    # because the quotient of two unequal floats never rounds to 1.
    entangled = np.log(np.minimum(terms.chosen_push / terms.chosen_drag, terms.rejected_push / terms.rejected_drag))
    slack = np.where(geometry.inner_product > 0, entangled, np.inf)
    ratio_exists = (coefficients.chosen > 0) & (coefficients.rejected > 0)
    cosine_exists = (geometry.chosen_squared_norm > 0) & (geometry.rejected_squared_norm > 0)
    return np.where(ratio_exists & cosine_exists, slack, np.nan)


def _is_uncertain(delta: Floats, scale: Floats, noise: float) -> Booleans:
    # With a scale of 0, all terms are 0. The delta is then exactly 0 and certain.
    return (scale > 0) & (np.abs(delta) <= noise * scale)
