"""Compares all losses on one run: shares of each movement, and weights that let more pairs separate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from entangle_cli.analysis.losses.loss import LossPoint
from entangle_cli.analysis.losses.table import LOSSES, loss_coefficients, loss_numbers
from entangle_cli.analysis.movement import Geometry, geometry_fields, pair_movements
from entangle_cli.analysis.windows import (
    BestValue,
    best_value,
    likelihood_windows,
    penalty_windows,
    ratio_windows,
    shift_windows,
)
from entangle_cli.records.pair import Movement
from entangle_cli.records.settings import LossSettings


class LossOutcome(NamedTuple):
    """Movements of the pairs under one loss."""

    name: str
    title: str
    numbers: dict[str, float]
    """Beta, if the loss has one, and the options."""
    counts: dict[str, int]
    """Movement to number of pairs."""
    undefined: int
    """Pairs with an infinite or undefined loss."""
    median_slack: float | None
    """Median over the pairs with a slack, including infinite ones; None if it is infinite or there is no such pair."""
    depends_on_batch: bool
    """Whether the loss depends on the batch. If so, all pairs of the run were treated as one batch."""


class Remedy(NamedTuple):
    """The best single value of one weight."""

    name: str
    meaning: str
    present: float | None
    """The value in the DPO loss."""
    best: BestValue | None


class LossComparison(NamedTuple):
    """All losses, and weights that let more pairs separate."""

    pairs: int
    outcomes: list[LossOutcome]
    remedies: list[Remedy]
    separable: int
    """Pairs with cosine < 1. Normalised gradients separate all of them; no weights can separate more."""


def compare_losses(geometry: Geometry, point: LossPoint, settings: LossSettings, noise: float) -> LossComparison:
    """Compare every loss of the table on the same pairs, with the beta of the settings.

    Args:
        settings: the current loss with its options. The other losses have default options.
        noise: as in `pair_movements`.
    """
    outcomes = []
    for name in LOSSES:
        chosen = settings if name == settings.name else LossSettings(name, settings.beta)
        outcomes.append(_outcome(geometry, point, chosen, noise))
    cosine = geometry_fields(geometry).cosine
    return LossComparison(
        pairs=len(cosine),
        outcomes=outcomes,
        remedies=_remedies(geometry, point, settings.beta),
        separable=int(np.count_nonzero(cosine < 1.0)),
    )


def _outcome(geometry: Geometry, point: LossPoint, settings: LossSettings, noise: float) -> LossOutcome:
    loss = LOSSES[settings.name]
    movements = pair_movements(geometry, loss_coefficients(settings, point), noise)
    numbers = loss_numbers(settings)
    names: Sequence[Any] = movements.movement.tolist()
    slack = movements.slack[~np.isnan(movements.slack)]
    median = float(np.median(slack)) if len(slack) else np.inf
    return LossOutcome(
        name=loss.name,
        title=loss.title,
        numbers={name: value for name, value in numbers.items() if name != "beta" or loss.uses_beta},
        counts={movement.value: names.count(movement.value) for movement in Movement},
        undefined=names.count(None),
        median_slack=median if np.isfinite(median) else None,
        depends_on_batch=loss.depends_on_batch,
    )


def _remedies(geometry: Geometry, point: LossPoint, beta: float) -> list[Remedy]:
    ratios = ratio_windows(geometry)
    push = loss_coefficients(LossSettings("sigmoid", beta), point).chosen
    likelihood = likelihood_windows(ratios, push, point.chosen_length)
    return [
        Remedy("coefficient ratio", "chosen over rejected weight of any loss", 1.0, best_value(ratios)),
        Remedy("nll_weight", "sigmoid_sft: DPO's loss - nll_weight z_c/n_c", 0.0, best_value(likelihood)),
        Remedy("penalty", "dpop, if the chosen answer has fallen", 0.0, best_value(penalty_windows(ratios))),
        Remedy("factor", "dpo_shift: factor of the rejected log-ratio", 1.0, best_value(shift_windows(ratios))),
    ]
