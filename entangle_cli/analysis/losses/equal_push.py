"""Losses of the margin only. Both coefficients are equal, so every pair moves as under DPO.

The losses differ in the relative weights of pairs. Some reverse the sign above a margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from entangle_cli.analysis.losses.loss import (
    Coefficients,
    Loss,
    LossPoint,
    Option,
    logistic,
    logistic_slope,
    softplus,
    where_below,
)
from entangle_cli.records.arrays import Floats

Numbers = Mapping[str, float]


def _equal(push: Callable[[LossPoint, Numbers], Floats]) -> Callable[[LossPoint, Numbers], Coefficients]:
    def coefficients(point: LossPoint, numbers: Numbers) -> Coefficients:
        pushes = push(point, numbers)
        return Coefficients(pushes, pushes)

    return coefficients


def _sigmoid(point: LossPoint, numbers: Numbers) -> Floats:
    return numbers["beta"] * logistic(-numbers["beta"] * point.margin)


def _conservative(point: LossPoint, numbers: Numbers) -> Floats:
    return numbers["beta"] * (logistic(-numbers["beta"] * point.margin) - numbers["label_smoothing"])


def _robust(point: LossPoint, numbers: Numbers) -> Floats:
    logit, flipped = numbers["beta"] * point.margin, numbers["label_smoothing"]
    kept = (1.0 - flipped) * logistic(-logit) + flipped * logistic(logit)
    return numbers["beta"] * kept / (1.0 - 2.0 * flipped)


def _hinge(point: LossPoint, numbers: Numbers) -> Floats:
    return where_below(numbers["beta"] * point.margin, 1.0, numbers["beta"])


def _ipo_sum(point: LossPoint, numbers: Numbers) -> Floats:
    return 2.0 * (0.5 / numbers["beta"] - point.margin)


def _exo(point: LossPoint, numbers: Numbers) -> Floats:
    logit, flipped = numbers["beta"] * point.margin, numbers["label_smoothing"]
    return numbers["beta"] * logistic_slope(logit) * (math.log((1.0 - flipped) / flipped) - logit)


def _discopop(point: LossPoint, numbers: Numbers) -> Floats:
    logit, tau = numbers["beta"] * point.margin, numbers["tau"]
    share = logistic(logit / tau)
    # q e^-u with q inside the exponential, because the factors are 0 and infinite for u far below 0.
    exponential = np.exp(-softplus(-logit / tau) - logit)
    rest = logistic(-logit / tau)
    blend = rest * exponential - share * rest * softplus(-logit)
    return numbers["beta"] * (rest * logistic(-logit) + exponential - blend / tau)


def _rdpo(point: LossPoint, numbers: Numbers) -> Floats:
    longer = point.chosen_tokens - point.rejected_tokens
    return numbers["beta"] * logistic(-numbers["beta"] * point.margin - numbers["alpha"] * longer)


def _aot(point: LossPoint, numbers: Numbers) -> Floats:
    policy = point.chosen_log_prob - point.rejected_log_prob
    reference = point.chosen_ref_log_prob - point.rejected_ref_log_prob
    known = np.flatnonzero(~np.isnan(policy + reference))
    order = known[np.argsort(policy[known], kind="stable")]
    push = np.full(len(policy), np.nan)
    logit = numbers["beta"] * (policy[order] - np.sort(reference[known]))
    push[order] = numbers["beta"] * (logistic(-logit) - numbers["label_smoothing"])
    return push


FLIPPED = "assumed share of flipped labels"

EQUAL_PUSH = (
    Loss(
        name="sigmoid",
        title="DPO",
        formula="-log sigma(u)",
        source="arXiv 2305.18290, Eq. 7; TRL DPOTrainer",
        coefficients=_equal(_sigmoid),
        uses_reference=True,
        uses_lengths=False,
    ),
    Loss(
        name="cdpo",
        title="conservative DPO",
        formula="-(1 - label_smoothing) log sigma(u) - label_smoothing log sigma(-u)",
        source="arXiv 2305.18290 (code); TRL CPOTrainer's label_smoothing",
        coefficients=_equal(_conservative),
        uses_reference=True,
        uses_lengths=False,
        options={"label_smoothing": Option(0.1, FLIPPED, 0.0, 0.5)},
    ),
    Loss(
        name="robust",
        title="robust DPO",
        formula="(-(1 - label_smoothing) log sigma(u) + label_smoothing log sigma(-u)) / (1 - 2 label_smoothing)",
        source="arXiv 2403.00409; TRL DPOTrainer",
        coefficients=_equal(_robust),
        uses_reference=True,
        uses_lengths=False,
        options={"label_smoothing": Option(0.1, FLIPPED + "; default as in the paper", 0.0, 0.49)},
    ),
    Loss(
        name="hinge",
        title="hinge (RSO, SLiC on log-ratios)",
        formula="max(0, 1 - u)",
        source="arXiv 2309.06657; TRL DPOTrainer",
        coefficients=_equal(_hinge),
        uses_reference=True,
        uses_lengths=False,
    ),
    Loss(
        name="ipo_sum",
        title="IPO, summed over tokens",
        formula="(r_c - r_r - 1/(2 beta))^2",
        source="arXiv 2310.12036, Eq. 17",
        coefficients=_equal(_ipo_sum),
        uses_reference=True,
        uses_lengths=False,
    ),
    Loss(
        name="exo_pair",
        title="EXO",
        formula="KL((sigma(u), sigma(-u)) || (1 - label_smoothing, label_smoothing))",
        source="arXiv 2402.00856, Eq. 16; TRL DPOTrainer",
        coefficients=_equal(_exo),
        uses_reference=True,
        uses_lengths=False,
        options={"label_smoothing": Option(1e-3, FLIPPED + ", above 0", 1e-12, 0.5)},
    ),
    Loss(
        name="discopop",
        title="DiscoPOP",
        formula="-(1 - q) log sigma(u) + q exp(-u), q = sigma(u / tau)",
        source="arXiv 2406.08414, Eq. 5; TRL DPOTrainer",
        coefficients=_equal(_discopop),
        uses_reference=True,
        uses_lengths=False,
        by_design="pushes against the label at the reference, where training starts",
        options={"tau": Option(0.05, "temperature of the blend", 1e-6)},
    ),
    Loss(
        name="rdpo",
        title="R-DPO",
        formula="-log sigma(u + alpha (n_c - n_r))",
        source="arXiv 2403.19159, with sign and weight from the code of arXiv 2410.13828",
        coefficients=_equal(_rdpo),
        uses_reference=True,
        uses_lengths=True,
        options={"alpha": Option(0.2, "nats per token of length difference")},
    ),
    Loss(
        name="aot",
        title="AOT, paired",
        formula="cdpo on differences of equal rank: u = beta (sorted(z_c - z_r) - sorted(reference))",
        source="arXiv 2406.05882; TRL DPOTrainer",
        coefficients=_equal(_aot),
        uses_reference=True,
        uses_lengths=False,
        depends_on_batch=True,
        options={"label_smoothing": Option(0.0, FLIPPED, 0.0, 0.5)},
    ),
)
