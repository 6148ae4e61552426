"""From what was measured to what a loss makes of it: the fields of a pair that depend on the loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from entangle_cli.analysis.layers import layer_profile
from entangle_cli.analysis.loss_comparison import compare_losses
from entangle_cli.analysis.losses.loss import LossPoint
from entangle_cli.analysis.losses.table import find_loss, loss_coefficients, loss_numbers
from entangle_cli.analysis.movement import Geometry, geometry_fields, pair_movements
from entangle_cli.analysis.statistics import summarise
from entangle_cli.records.arrays import finite
from entangle_cli.records.measurement import PairMeasurement
from entangle_cli.records.pair import Status
from entangle_cli.records.settings import LossSettings

NOISE = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 2e-2}
"""Relative error of squared norms and inner product that the engine promises, by dtype; see tests/tolerances.py."""


def check_loss(loss: LossSettings) -> None:
    """Refuse a loss before anything is computed for it.

    Raises:
        UsageError: an unknown loss, a beta that is not positive, or an option that it does not have.
    """
    loss_numbers(loss)


def describe_loss(loss: LossSettings) -> str:
    """The loss with every number that it has, in words."""
    numbers = loss_numbers(loss)
    if not find_loss(loss.name).uses_beta:
        del numbers["beta"]
    return ", ".join([loss.name, *(f"{name} {value:g}" for name, value in numbers.items())])


def with_movements(columns: Mapping[str, Any], loss: LossSettings, dtype: str) -> dict[str, Any]:
    """The columns of a run together with movement, deltas, slack and uncertain under a loss.

    Rows that were not measured get NaN and None. The reference of a row without reference log-probs is the checkpoint
    itself, as at the first step of training. A measured pair without a movement gets the reason `loss_undefined`.

    Raises:
        UsageError: an unknown loss, a beta that is not positive, or an option that it does not have.
    """
    measured = columns["status"] == Status.OK.value
    coefficients = loss_coefficients(loss, _point(columns, measured))
    movements = pair_movements(_geometry(columns, measured), coefficients, NOISE[dtype])
    numbers = {
        name: _spread(getattr(movements, name), measured)
        for name in ("chosen_delta", "rejected_delta", "slack", "uncertain")
    }
    movement = np.full(len(measured), None, dtype=object)
    movement[measured] = movements.movement
    reason = columns["reason"].copy()
    reason[measured & (movement == None)] = LOSS_UNDEFINED  # noqa: E711, elementwise
    return {**columns, "reason": reason, "movement": movement, **numbers}


LOSS_UNDEFINED = "loss_undefined"
"""Reason of a measured pair for which a loss has no finite coefficients, and so no movement."""


def weighted_log_ratios(columns: Mapping[str, Any], loss: LossSettings) -> Any:
    """log(d_c |g_c| / (d_r |g_r|)) of measured pairs under a loss, float64; NaN where a coefficient is not positive."""
    every = np.ones(len(columns["status"]), dtype=bool)
    coefficients = loss_coefficients(loss, _point(columns, every))
    with np.errstate(invalid="ignore", divide="ignore"):
        weighted = [
            np.where(coefficient > 0, coefficient, np.nan) * columns[f"{side}_grad_norm"]
            for coefficient, side in zip(coefficients, ("chosen", "rejected"), strict=True)
        ]
        return np.log(weighted[0] / weighted[1])


def losses_compared(columns: Mapping[str, Any], loss: LossSettings, dtype: str) -> dict[str, Any]:
    """The measured pairs under every loss, JSON-able; see `analysis.loss_comparison`."""
    measured = columns["status"] == Status.OK.value
    comparison = compare_losses(_geometry(columns, measured), _point(columns, measured), loss, NOISE[dtype])
    return {
        "predictor": "pair-sgd",
        "pairs": comparison.pairs,
        "separable": comparison.separable,
        "losses": [outcome._asdict() for outcome in comparison.outcomes],
        "remedies": [
            {**remedy._asdict(), "best": None if remedy.best is None else _finite_fields(remedy.best._asdict())}
            for remedy in comparison.remedies
        ],
    }


def _finite_fields(fields: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in fields.items()}


def _point(columns: Mapping[str, Any], measured: Any) -> LossPoint:
    return LossPoint(
        chosen_log_prob=columns["chosen_log_prob"][measured],
        rejected_log_prob=columns["rejected_log_prob"][measured],
        chosen_ref_log_prob=_reference(columns, "chosen", measured),
        rejected_ref_log_prob=_reference(columns, "rejected", measured),
        chosen_tokens=columns["chosen_tokens"][measured],
        rejected_tokens=columns["rejected_tokens"][measured],
    )


def _geometry(columns: Mapping[str, Any], measured: Any) -> Geometry:
    return Geometry(
        chosen_squared_norm=columns["chosen_grad_norm"][measured] ** 2,
        rejected_squared_norm=columns["rejected_grad_norm"][measured] ** 2,
        inner_product=columns["inner_product"][measured],
    )


def _reference(columns: Mapping[str, Any], side: str, measured: Any) -> Any:
    """Reference log-probs; the policy's own in rows that bring none."""
    reference = columns[f"{side}_ref_log_prob"][measured]
    return np.where(np.isnan(reference), columns[f"{side}_log_prob"][measured], reference)


def _spread(values: Any, measured: Any) -> Any:
    column = np.full(len(measured), np.nan)
    column[measured] = values
    return column


class DerivedFields(NamedTuple):
    """The loss-free fields of a record that follow from its measurement; None where undefined."""

    cosine: float | None
    norm_ratio: float | None
    chosen_condition: float | None
    rejected_condition: float | None


def derived_fields(measurements: Sequence[PairMeasurement]) -> list[DerivedFields]:
    """The derived fields of each measurement."""
    values = np.array(
        [(pair.chosen_squared_norm, pair.rejected_squared_norm, pair.inner_product) for pair in measurements]
    ).reshape(-1, 3)
    fields = geometry_fields(Geometry(values[:, 0], values[:, 1], values[:, 2]))
    columns = [getattr(fields, name) for name in DerivedFields._fields]
    return [DerivedFields(*map(finite, row)) for row in zip(*columns, strict=True)]


def run_summary(
    columns: Mapping[str, Any],
    loss: LossSettings,
    layers: Iterable[Mapping[str, Any]] = (),
    sources: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The aggregates of a run under a loss, JSON-able; they name the predictor they speak for.

    Args:
        layers: those of the run, part by part; `layers` of the result is empty without.
        sources: identities of the data sets, where the run has several; `data_sets` of the result says of each what
            its part of the rows does, and is empty without.
    """
    return {
        "predictor": "pair-sgd",
        "loss": asdict(loss),
        **summarise(columns),
        "layers": layer_profile(layers),
        "data_sets": _by_data_set(columns, sources),
    }


def _by_data_set(columns: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows, measured pairs and movements of each data set of a run, in order."""
    found = []
    start = 0
    for source in sources:
        rows = (columns["index"] >= start) & (columns["index"] < start + source["rows"])
        start += source["rows"]
        of_source = summarise({name: columns[name][rows] for name in ("status", "reason", "movement", "uncertain")})
        names = ("rows", "pairs", "movements", "reasons")
        found.append({"name": source["name"], **{name: of_source[name] for name in names}})
    return found
