"""Losses of token averages. The ratio of the coefficients is n_r / n_c, which balances norms that grow with length."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from entangle_cli.analysis.losses.loss import (
    LIKELIHOOD_RAISES_BOTH,
    Coefficients,
    Loss,
    LossPoint,
    Option,
    logistic,
    where_below,
)
from entangle_cli.records.arrays import Floats

Numbers = Mapping[str, float]


def _chosen_mean_ratio(point: LossPoint) -> Floats:
    return point.chosen_log_ratio / point.chosen_length


def _rejected_mean_ratio(point: LossPoint) -> Floats:
    return point.rejected_log_ratio / point.rejected_length


def _chosen_mean(point: LossPoint) -> Floats:
    return point.chosen_log_prob / point.chosen_length


def _rejected_mean(point: LossPoint) -> Floats:
    return point.rejected_log_prob / point.rejected_length


def _a_token(point: LossPoint, push: Floats) -> Coefficients:
    return Coefficients(push / point.chosen_length, push / point.rejected_length)


def _ipo(point: LossPoint, numbers: Numbers) -> Coefficients:
    return _a_token(point, 2.0 * (0.5 / numbers["beta"] - (_chosen_mean_ratio(point) - _rejected_mean_ratio(point))))


def _sigmoid_norm(point: LossPoint, numbers: Numbers) -> Coefficients:
    margin = _chosen_mean_ratio(point) - _rejected_mean_ratio(point)
    return _a_token(point, numbers["beta"] * logistic(-numbers["beta"] * margin))


def _simpo(point: LossPoint, numbers: Numbers) -> Coefficients:
    margin = numbers["beta"] * (_chosen_mean(point) - _rejected_mean(point))
    push = _a_token(point, numbers["beta"] * logistic(numbers["gamma"] - margin))
    return Coefficients(push.chosen + numbers["nll_weight"] / point.chosen_length, push.rejected)


def _alphapo(point: LossPoint, numbers: Numbers) -> Coefficients:
    alpha = numbers["alpha"]
    chosen, rejected = -alpha * _chosen_mean(point), -alpha * _rejected_mean(point)
    # (1 - e^x) / alpha with expm1, because for small alpha the reward is a difference of nearly equal numbers.
    margin = numbers["beta"] * (np.expm1(rejected) - np.expm1(chosen)) / alpha
    push = _a_token(point, numbers["beta"] * logistic(numbers["gamma"] - margin))
    return Coefficients(push.chosen * np.exp(chosen), push.rejected * np.exp(rejected))


def _rrhf(point: LossPoint, numbers: Numbers) -> Coefficients:
    push = _a_token(point, where_below(_chosen_mean(point) - _rejected_mean(point), 0.0, 1.0))
    return Coefficients(push.chosen + numbers["nll_weight"], push.rejected)


def _simper(point: LossPoint, numbers: Numbers) -> Coefficients:  # noqa: ARG001 -- has no options
    return Coefficients(
        np.exp(_chosen_mean(point)) / point.chosen_length, np.exp(_rejected_mean(point)) / point.rejected_length
    )


GAMMA = Option(0.5, "target margin; TRL's simpo_gamma")

LENGTH_NORMALISED = (
    Loss(
        name="ipo",
        title="IPO, averaged over tokens",
        formula="(r_c/n_c - r_r/n_r - 1/(2 beta))^2",
        source="arXiv 2310.12036, Eq. 17, with TRL DPOTrainer's token average",
        coefficients=_ipo,
        uses_reference=True,
        uses_lengths=True,
    ),
    Loss(
        name="sigmoid_norm",
        title="DPO, length-normalised",
        formula="-log sigma(beta (r_c/n_c - r_r/n_r))",
        source="arXiv 2411.15124; TRL DPOTrainer",
        coefficients=_sigmoid_norm,
        uses_reference=True,
        uses_lengths=True,
        customary_beta=5.0,
    ),
    Loss(
        name="simpo",
        title="SimPO",
        formula="-log sigma(beta (z_c/n_c - z_r/n_r) - gamma) - nll_weight z_c/n_c",
        source="arXiv 2405.14734; TRL CPOTrainer with cpo_alpha = nll_weight",
        coefficients=_simpo,
        uses_reference=False,
        uses_lengths=True,
        customary_beta=2.0,
        options={"gamma": GAMMA, "nll_weight": Option(0.0, "TRL's cpo_alpha; TRL's default is 1", 0.0)},
    ),
    Loss(
        name="alphapo",
        title="AlphaPO",
        formula="-log sigma(beta (a_c - a_r) - gamma), a = (1 - exp(-alpha z/n)) / alpha",
        source="arXiv 2501.03884; TRL CPOTrainer's alphapo",
        coefficients=_alphapo,
        uses_reference=False,
        uses_lengths=True,
        options={"gamma": GAMMA, "alpha": Option(0.25, "shape of the reward; not 0, which would be SimPO")},
    ),
    Loss(
        name="rrhf",
        title="RRHF",
        formula="max(0, z_r/n_r - z_c/n_c) - nll_weight z_c",
        source="arXiv 2304.05302, Eqs. 2-4, for one pair",
        coefficients=_rrhf,
        uses_reference=False,
        uses_lengths=True,
        by_design=LIKELIHOOD_RAISES_BOTH,
        uses_beta=False,
        options={"nll_weight": Option(1.0, "weight of the chosen answer's summed likelihood", 0.0)},
    ),
    Loss(
        name="simper",
        title="SimPER",
        formula="exp(z_r/n_r) - exp(z_c/n_c)",
        source="arXiv 2502.00883",
        coefficients=_simper,
        uses_reference=False,
        uses_lengths=True,
        uses_beta=False,
    ),
)
