"""Where a pair's log-probs go under one small step, from its gradients and a loss's coefficients.

Everything is first order in the learning rate and about the pair alone (the `pair-sgd` predictor).
Arrays in and out.
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
"""Excess of |inner product| over the product of the norms, relative, that is taken for rounding:
4 ulp of float32, the least precise type that squared norms and inner products are summed in."""
# Indexed by `movement_names`; the last is the undefined movement.
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
    """A pair's two gradients as far as movement depends on them. Arrays are float64, [pairs]."""

    chosen_squared_norm: Floats
    """|grad chosen_log_prob|^2, A in the formulas."""
    rejected_squared_norm: Floats
    """|grad rejected_log_prob|^2, B in the formulas."""
    inner_product: Floats
    """<grad chosen_log_prob, grad rejected_log_prob>, P in the formulas."""


@dataclass(frozen=True, eq=False)
class GeometryFields:
    """Loss-free fields, named as in `PairRecord`. Arrays are float64, [pairs], NaN if undefined."""

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
    """Change of chosen_log_prob in nats per unit learning rate; NaN where undefined."""
    rejected_delta: Floats
    """Change of rejected_log_prob in nats per unit learning rate; NaN where undefined."""
    movement: NDArray[np.object_]
    """The `str` value of a `Movement`; None where a delta is undefined."""
    slack: Floats
    """-log(cosine) - |log(d_c sqrt(A) / (d_r sqrt(B)))|: distance to the nearest boundary in log
    units; +inf where cosine <= 0, NaN where undefined or where a coefficient is not positive."""
    uncertain: Booleans
    """Whether a delta's sign is within the numerical error; False where movement is None."""


@np.errstate(divide="ignore", over="ignore", invalid="ignore")
def geometry_fields(geometry: Geometry) -> GeometryFields:
    """Cosine, norm ratio and the two conditions of every pair.

    cosine = P/sqrt(AB), norm_ratio = sqrt(A/B), conditions P/A and P/B (arXiv 2410.13828).

    Args:
        geometry: squared norms and inner product, [pairs].
    Returns:
        The four fields, [pairs], without unit. NaN where a divisor is 0 or an input is not finite.
        The cosine is clipped to [-1, 1] against `CAUCHY_SCHWARZ_ROUNDING` only: one beyond that is
        shown as it is, since it means that the geometry is wrong.
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
    """Where one gradient step on each pair alone moves its two log-probs.

    chosen_delta = d_c A - d_r P and rejected_delta = d_c P - d_r B, the inner products of the two
    gradients with -grad loss = d_c g_c - d_r g_r (arXiv 2410.13828, Eqs. 4-5, have d_c = d_r).

    Signs are strict: both deltas 0 is `still`. Where one delta alone is 0, a still chosen does not
    count as falling and a still rejected does not count as rising, so that the other side names the
    movement: `separates` where it moves as the loss wants, otherwise `both_fall` (chosen falls) or
    `both_rise` (rejected rises).

    Where rounding or noise puts |P| above sqrt(AB), sqrt(AB) is used: `reversed` then cannot happen
    for d_c = d_r > 0.

    Args:
        geometry: squared norms and inner product, [pairs].
        coefficients: d_c and d_r of the loss, [pairs]; any sign.
        noise: error of A, B and P relative to A, B and sqrt(AB) in the dtype of the gradients; 0
            for exact ones.
    Returns:
        The fields of `Movements`, [pairs]. A geometry or coefficient that is not finite leaves the
        movement undefined.
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
    doubt = _in_doubt(chosen_delta, np.abs(terms.chosen_push) + terms.chosen_reach, noise)
    doubt |= _in_doubt(rejected_delta, np.abs(terms.rejected_push) + terms.rejected_reach, noise)
    return Movements(
        chosen_delta=np.where(defined, chosen_delta, np.nan),
        rejected_delta=np.where(defined, rejected_delta, np.nan),
        movement=movement_names(chosen_delta, rejected_delta, defined),
        slack=np.where(defined, _slack(terms, geometry, coefficients), np.nan),
        uncertain=defined & doubt,
    )


class _Terms(NamedTuple):
    """The products that make the two deltas, and the bound of those that hold P. [pairs]."""

    chosen_push: Floats
    """d_c A."""
    chosen_drag: Floats
    """d_r P."""
    chosen_reach: Floats
    """|d_r| sqrt(AB)."""
    rejected_push: Floats
    """d_r B."""
    rejected_drag: Floats
    """d_c P."""
    rejected_reach: Floats
    """|d_c| sqrt(AB)."""


def _terms(geometry: Geometry, coefficients: Coefficients, tolerance: float) -> _Terms:
    chosen, rejected = geometry.chosen_squared_norm, geometry.rejected_squared_norm
    norms = _norm_product(chosen, rejected)
    inner = _within_cauchy_schwarz(geometry.inner_product, norms, tolerance)
    return _Terms(
        chosen_push=coefficients.chosen * chosen,
        chosen_drag=coefficients.rejected * inner,
        chosen_reach=np.abs(coefficients.rejected) * norms,
        rejected_push=coefficients.rejected * rejected,
        rejected_drag=coefficients.chosen * inner,
        rejected_reach=np.abs(coefficients.chosen) * norms,
    )


def _norm_product(chosen: Floats, rejected: Floats) -> Floats:
    # sqrt(AB), held between A and B where it lies by definition: rounding would let P exceed both.
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
    """The `str` value of the `Movement` of two changes, [pairs]; None where a change is not finite or not defined."""
    if defined is None:
        defined = np.isfinite(chosen) & np.isfinite(rejected)
    chosen_falls, rejected_rises = chosen < 0, rejected > 0
    # `select` takes the first condition that holds.
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
    # With kappa = d_c sqrt(A) / (d_r sqrt(B)), -log(cosine) - |log kappa| is the smaller one of
    # log(d_c A / (d_r P)) and log(d_r B / (d_c P)). In this form the sign is exactly that of the
    # deltas: the quotient of two unequal floats never rounds to 1.
    entangled = np.log(np.minimum(terms.chosen_push / terms.chosen_drag, terms.rejected_push / terms.rejected_drag))
    slack = np.where(geometry.inner_product > 0, entangled, np.inf)
    ratio_exists = (coefficients.chosen > 0) & (coefficients.rejected > 0)
    cosine_exists = (geometry.chosen_squared_norm > 0) & (geometry.rejected_squared_norm > 0)
    return np.where(ratio_exists & cosine_exists, slack, np.nan)


def _in_doubt(delta: Floats, scale: Floats, noise: float) -> Booleans:
    # A scale of 0 means that nothing pushes: such a delta is exactly 0, and certain.
    return (scale > 0) & (np.abs(delta) <= noise * scale)
