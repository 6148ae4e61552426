"""From what was measured to what a loss makes of it: the fields of a pair that depend on the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from entangle_cli.analysis.losses import LossPoint, loss_coefficients
from entangle_cli.analysis.movement import Geometry, geometry_fields, pair_movements
from entangle_cli.analysis.statistics import summarise
from entangle_cli.records import LossSettings, PairMeasurement, Status

NOISE = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 2e-2}
"""Relative error of squared norms and inner product that the engine promises, by dtype; see tests/tolerances.py."""


def check_loss(loss: LossSettings) -> None:
    """Refuse a loss before anything is computed for it.

    Raises:
        UsageError: an unknown loss, or a beta that is not positive.
    """
    nothing = np.empty(0)
    loss_coefficients(loss, LossPoint(*[nothing] * 6))


def with_movements(columns: Mapping[str, Any], loss: LossSettings, dtype: str) -> dict[str, Any]:
    """The columns of a run together with movement, deltas, slack and uncertain under a loss.

    Rows that were not measured get NaN and None. Without reference log-probs the reference is the checkpoint
    itself, as at the first step of training.

    Raises:
        UsageError: an unknown loss, or a beta that is not positive.
    """
    measured = columns["status"] == Status.OK.value
    point = LossPoint(
        chosen_log_prob=columns["chosen_log_prob"][measured],
        rejected_log_prob=columns["rejected_log_prob"][measured],
        chosen_ref_log_prob=_reference(columns, "chosen", measured),
        rejected_ref_log_prob=_reference(columns, "rejected", measured),
        chosen_tokens=columns["chosen_tokens"][measured],
        rejected_tokens=columns["rejected_tokens"][measured],
    )
    geometry = Geometry(
        chosen_squared_norm=columns["chosen_grad_norm"][measured] ** 2,
        rejected_squared_norm=columns["rejected_grad_norm"][measured] ** 2,
        inner_product=columns["inner_product"][measured],
    )
    movements = pair_movements(geometry, loss_coefficients(loss, point), NOISE[dtype])
    numbers = {
        name: _spread(getattr(movements, name), measured)
        for name in ("chosen_delta", "rejected_delta", "slack", "uncertain")
    }
    movement = np.full(len(measured), None, dtype=object)
    movement[measured] = movements.movement
    return {**columns, "movement": movement, **numbers}


def _reference(columns: Mapping[str, Any], side: str, measured: Any) -> Any:
    """Reference log-probs; the policy's own where a run has none at all."""
    reference = columns[f"{side}_ref_log_prob"][measured]
    return columns[f"{side}_log_prob"][measured] if np.isnan(reference).all() else reference


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
    return [DerivedFields(*map(_finite, row)) for row in zip(*columns, strict=True)]


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def run_summary(columns: Mapping[str, Any], loss: LossSettings) -> dict[str, Any]:
    """The aggregates of a run under a loss, JSON-able; they name the predictor they speak for."""
    return {"predictor": "pair-sgd", "loss": asdict(loss), **summarise(columns)}
