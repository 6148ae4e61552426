"""Compares all losses on one run: shares of each movement, and weights that let more pairs separate."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from entangle_cli.analysis.losses.loss import TRL_BETA, Loss, LossPoint
from entangle_cli.analysis.losses.table import LOSSES, loss_coefficients, loss_numbers
from entangle_cli.analysis.movement import Geometry, geometry_fields, pair_movements
from entangle_cli.analysis.statistics import quantiles
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
    """Whether all pairs of the run were taken for one batch."""
    same_as: str | None
    """The first loss of the list that moves every pair of this run the same way; None for that first one."""
    by_design: str | None
    """What the loss does to both log-probs on purpose."""


class Remedy(NamedTuple):
    """The best single value of one weight."""

    name: str
    meaning: str
    present: float
    """The value under DPO's loss."""
    best: BestValue | None
    value: float | None
    """The value nearest to the present one at which most pairs separate, to about three digits; None without `best`."""


class LossComparison(NamedTuple):
    """All losses, and weights that let more pairs separate."""

    pairs: int
    outcomes: list[LossOutcome]
    """The loss in use first, then the table's order."""
    remedies: list[Remedy]
    separable: int
    """Pairs with cosine < 1. Normalised gradients separate all of them; no weights can separate more."""


def customary_settings(loss: Loss) -> LossSettings:
    """A loss with the numbers that people train it with."""
    return LossSettings(loss.name, loss.customary_beta)


def compare_losses(geometry: Geometry, point: LossPoint, settings: LossSettings, noise: float) -> LossComparison:
    """Every loss of the table on the same pairs, each at its customary settings.

    Args:
        settings: the loss in use, whose numbers are taken as they are.
        noise: as for `pair_movements`.
    """
    others = [customary_settings(loss) for loss in LOSSES.values() if loss.name != settings.name]
    first_with: dict[bytes, str] = {}
    outcomes = [_outcome(geometry, point, each, noise, first_with) for each in (settings, *others)]
    cosine = geometry_fields(geometry).cosine
    return LossComparison(
        pairs=len(cosine),
        outcomes=outcomes,
        remedies=_remedies(geometry, point, settings.beta if settings.name == "sigmoid" else TRL_BETA),
        separable=int(np.count_nonzero(cosine < 1.0)),
    )


def _outcome(
    geometry: Geometry, point: LossPoint, settings: LossSettings, noise: float, first_with: dict[bytes, str]
) -> LossOutcome:
    loss = LOSSES[settings.name]
    movements = pair_movements(geometry, loss_coefficients(settings, point), noise)
    masks = {movement.value: movements.movement == movement.value for movement in Movement}
    counts = {name: int(np.count_nonzero(mask)) for name, mask in masks.items()}
    first = first_with.setdefault(b"".join(np.packbits(mask).tobytes() for mask in masks.values()), loss.name)
    numbers = loss_numbers(settings)
    median = quantiles(movements.slack, [0.5])
    return LossOutcome(
        name=loss.name,
        title=loss.title,
        numbers={name: value for name, value in numbers.items() if name != "beta" or loss.uses_beta},
        counts=counts,
        undefined=len(movements.movement) - sum(counts.values()),
        median_slack=median[0] if median is not None and math.isfinite(median[0]) else None,
        depends_on_batch=loss.depends_on_batch,
        same_as=None if first == loss.name else first,
        by_design=loss.by_design,
    )


def _remedies(geometry: Geometry, point: LossPoint, beta: float) -> list[Remedy]:
    ratios = ratio_windows(geometry)
    push = loss_coefficients(LossSettings("sigmoid", beta), point).chosen
    likelihood = likelihood_windows(ratios, push, point.chosen_length)
    found = [
        ("coefficient ratio", "weight of the chosen answer over the rejected one's, in any loss", 1.0, ratios),
        ("nll_weight", "weight of the chosen answer's likelihood beside DPO (sigmoid_sft)", 0.0, likelihood),
        ("penalty", "penalty on a fall of the chosen answer (dpop)", 0.0, penalty_windows(ratios)),
        ("factor", "weight of the rejected log-ratio in DPO-Shift (dpo_shift)", 1.0, shift_windows(ratios)),
    ]
    remedies = []
    for name, meaning, present, windows in found:
        best = best_value(windows)
        remedies.append(Remedy(name, meaning, present, best, None if best is None else nearest_value(best, present)))
    return remedies


def nearest_value(best: BestValue, present: float) -> float:
    """A short number between the ends of the best stretch, as near to the present value as three digits allow."""
    if best.low < present < best.high:
        return present
    end, towards = (best.low, 1) if present <= best.low else (best.high, -1)
    step = 10.0 ** (math.floor(math.log10(abs(end) or 1.0)) - 2)
    rounded = (math.floor(end / step) + 1) * step if towards > 0 else (math.ceil(end / step) - 1) * step
    rounded = float(f"{rounded:.6g}")
    inside = best.low < rounded < best.high
    return rounded if inside else (best.low + best.high) / 2
