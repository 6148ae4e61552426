"""The preference losses, each as the two coefficients that weigh a pair's gradients.

Legend of the formulas: `z_c`, `z_r` log-probs of chosen and rejected, summed over the scored
response tokens, nats; `r_c`, `r_r` the same minus the reference's; `n_c`, `n_r` scored tokens;
`sigma` the logistic function. Nothing here knows a gradient.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from entangle_cli.errors import UsageError
from entangle_cli.records import LossSettings

Floats: TypeAlias = NDArray[np.float64]

SIMPO_MARGIN = 0.5
"""Gamma of SimPO: TRL's default `simpo_gamma`, in nats per token times beta."""
CPO_NLL_WEIGHT = 1.0
"""Weight of CPO's likelihood term: TRL's default `cpo_alpha`."""
DPOP_PENALTY = 50.0
"""Lambda of DPO-Positive: of its paper's 5, 50, 500 the one in the code of arXiv 2410.13828."""
ROBUST_FLIP_RATE = 0.1
"""Assumed share of flipped labels of robust DPO, TRL's `label_smoothing`: its paper's advice."""
TRL_BETA = 0.1
"""Default `beta` of TRL's DPOConfig, CPOConfig and ORPOConfig."""


@dataclass(frozen=True, eq=False)
class LossPoint:
    """Where each pair stands: all a preference loss looks at. Every array is float64, [pairs]."""

    chosen_log_prob: Floats
    """Sum over the scored response tokens, nats."""
    rejected_log_prob: Floats
    chosen_ref_log_prob: Floats
    """The reference's; the policy's own array where the reference is this checkpoint."""
    rejected_ref_log_prob: Floats
    chosen_tokens: Floats
    """Scored tokens; 0 counts as 1, as in TRL's `clamp(min=1)`."""
    rejected_tokens: Floats

    @property
    def chosen_log_ratio(self) -> Floats:
        """Policy minus reference, nats, [pairs]."""
        return self.chosen_log_prob - self.chosen_ref_log_prob

    @property
    def rejected_log_ratio(self) -> Floats:
        """Policy minus reference, nats, [pairs]."""
        return self.rejected_log_prob - self.rejected_ref_log_prob

    @property
    def margin(self) -> Floats:
        """Chosen minus rejected log-ratio, nats, [pairs]."""
        return self.chosen_log_ratio - self.rejected_log_ratio

    @property
    def chosen_length(self) -> Floats:
        """Divisor of a token average, at least 1, [pairs]."""
        return np.maximum(self.chosen_tokens, 1.0)

    @property
    def rejected_length(self) -> Floats:
        """Divisor of a token average, at least 1, [pairs]."""
        return np.maximum(self.rejected_tokens, 1.0)


class Coefficients(NamedTuple):
    """How hard a loss pushes each log-prob of a pair, per nat. Both arrays are float64, [pairs]."""

    chosen: Floats
    """-d loss / d chosen_log_prob."""
    rejected: Floats
    """+d loss / d rejected_log_prob."""


@dataclass(frozen=True)
class Loss:
    """A preference loss: what it is, where it is from, and its coefficients."""

    name: str
    """As TRL names it where TRL has it."""
    title: str
    formula: str
    """The loss of one pair, in the legend of this module."""
    source: str
    uses_reference: bool
    """Whether the coefficients depend on the reference log-probs."""
    uses_lengths: bool
    """Whether the coefficients depend on the token counts."""
    default_beta: float
    coefficients: Callable[[LossPoint, float], Coefficients]
    """From the pairs and a beta that is positive and finite."""


def find_loss(name: str) -> Loss:
    """The loss of that name.

    Args:
        name: a key of `LOSSES`.
    Returns:
        Its row of the table.
    Raises:
        UsageError: there is no loss of that name.
    """
    if name in LOSSES:
        return LOSSES[name]
    near = _OTHER_NAMES.get(name.lower()) or next(iter(difflib.get_close_matches(name.lower(), LOSSES, n=1)), None)
    hint = f"did you mean {near!r}?" if near else "choose one of these."
    raise UsageError(f"unknown loss {name!r}", f"one of {', '.join(LOSSES)}", hint)


def loss_coefficients(settings: LossSettings, point: LossPoint) -> Coefficients:
    """The coefficients of the two gradients of every pair under a loss.

    -grad loss = chosen * grad chosen_log_prob - rejected * grad rejected_log_prob, hence
    chosen = -d loss/d chosen_log_prob and rejected = +d loss/d rejected_log_prob: d_w and d_l of
    the general margin loss of arXiv 2410.13828, taken as partial derivatives so that losses without
    a margin fit too.

    Args:
        settings: the loss and its beta.
        point: the pairs, [pairs].
    Returns:
        Both coefficients, [pairs], float64, per nat. Negative where the loss pushes against the
        label, NaN where the point holds a NaN, infinite or NaN where the loss itself is infinite
        (ORPO at probability 1).
    Raises:
        UsageError: the loss is unknown, or beta is not a positive finite number.
    Precision: float64, no logistic or exponential that overflows.  Cost: O(pairs) time and memory.
    """
    loss = find_loss(settings.name)
    if not (math.isfinite(settings.beta) and settings.beta > 0):
        raise UsageError(
            f"beta = {settings.beta!r} for loss {loss.name!r}",
            "a finite number above 0",
            f"give the beta you train with, or none for the default, {loss.default_beta}.",
        )
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        return loss.coefficients(point, settings.beta)


def _logistic(x: Floats) -> Floats:
    # The exponential never sees a positive number: no overflow, full precision in both tails.
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, decay) / (1.0 + decay)


def _logistic_slope(x: Floats) -> Floats:
    return _logistic(x) * _logistic(-x)


def _sigmoid(point: LossPoint, beta: float) -> Coefficients:
    push = beta * _logistic(-beta * point.margin)
    return Coefficients(push, push)


def _robust(point: LossPoint, beta: float) -> Coefficients:
    logit = beta * point.margin
    kept = (1.0 - ROBUST_FLIP_RATE) * _logistic(-logit) + ROBUST_FLIP_RATE * _logistic(logit)
    push = beta * kept / (1.0 - 2.0 * ROBUST_FLIP_RATE)
    return Coefficients(push, push)


def _hinge(point: LossPoint, beta: float) -> Coefficients:
    logit = beta * point.margin
    # Not `logit < 1` alone, which would read a NaN as a satisfied hinge.
    push = np.where(np.isnan(logit), np.nan, np.where(logit < 1.0, beta, 0.0))
    return Coefficients(push, push)


def _ipo(point: LossPoint, beta: float) -> Coefficients:
    chosen_mean = point.chosen_log_ratio / point.chosen_length
    rejected_mean = point.rejected_log_ratio / point.rejected_length
    push = 2.0 * (0.5 / beta - (chosen_mean - rejected_mean))
    return Coefficients(push / point.chosen_length, push / point.rejected_length)


def _sigmoid_norm(point: LossPoint, beta: float) -> Coefficients:
    chosen_mean = point.chosen_log_ratio / point.chosen_length
    rejected_mean = point.rejected_log_ratio / point.rejected_length
    push = beta * _logistic(-beta * (chosen_mean - rejected_mean))
    return Coefficients(push / point.chosen_length, push / point.rejected_length)


def _simpo(point: LossPoint, beta: float) -> Coefficients:
    chosen_mean = point.chosen_log_prob / point.chosen_length
    rejected_mean = point.rejected_log_prob / point.rejected_length
    push = beta * _logistic(SIMPO_MARGIN - beta * (chosen_mean - rejected_mean))
    return Coefficients(push / point.chosen_length, push / point.rejected_length)


def _cpo(point: LossPoint, beta: float) -> Coefficients:
    push = beta * _logistic(-beta * (point.chosen_log_prob - point.rejected_log_prob))
    return Coefficients(push + CPO_NLL_WEIGHT / point.chosen_length, push)


def _dpop(point: LossPoint, beta: float) -> Coefficients:
    fall = np.maximum(0.0, -point.chosen_log_ratio)
    push = beta * _logistic(-beta * (point.margin - DPOP_PENALTY * fall))
    return Coefficients(push * (1.0 + DPOP_PENALTY * (fall > 0)), push)


def _orpo(point: LossPoint, beta: float) -> Coefficients:
    chosen_mean = point.chosen_log_prob / point.chosen_length
    rejected_mean = point.rejected_log_prob / point.rejected_length
    chosen_rest, rejected_rest = -np.expm1(chosen_mean), -np.expm1(rejected_mean)
    # beta sigma(o_r - o_c) / (1 - p_c) with the odds multiplied out: exact also where p_c reaches 1
    # and o_c is infinite.
    odds_push = beta / (chosen_rest + rejected_rest * np.exp(chosen_mean - rejected_mean))
    return Coefficients(
        (1.0 + odds_push) / point.chosen_length,
        odds_push * chosen_rest / rejected_rest / point.rejected_length,
    )


def _apo_zero(point: LossPoint, beta: float) -> Coefficients:
    return Coefficients(
        beta * _logistic_slope(beta * point.chosen_log_ratio),
        beta * _logistic_slope(beta * point.rejected_log_ratio),
    )


def _nca_pair(point: LossPoint, beta: float) -> Coefficients:
    return Coefficients(
        beta * (1.0 - 1.5 * _logistic(beta * point.chosen_log_ratio)),
        beta * 0.5 * _logistic(beta * point.rejected_log_ratio),
    )


def _bco_pair(point: LossPoint, beta: float) -> Coefficients:
    return Coefficients(
        beta * _logistic(-beta * point.chosen_log_ratio),
        beta * _logistic(beta * point.rejected_log_ratio),
    )


def _sppo_hard(point: LossPoint, beta: float) -> Coefficients:
    return Coefficients(1.0 / beta - 2.0 * point.chosen_log_ratio, 1.0 / beta + 2.0 * point.rejected_log_ratio)


LOSSES: dict[str, Loss] = {
    "sigmoid": Loss(
        name="sigmoid",
        title="DPO",
        formula="-log sigma(beta (r_c - r_r))",
        source="arXiv 2305.18290, Eq. 7; TRL DPOTrainer",
        uses_reference=True,
        uses_lengths=False,
        default_beta=TRL_BETA,
        coefficients=_sigmoid,
    ),
    "hinge": Loss(
        name="hinge",
        title="hinge (RSO, SLiC on log-ratios)",
        formula="max(0, 1 - beta (r_c - r_r))",
        source="arXiv 2309.06657; TRL DPOTrainer",
        uses_reference=True,
        uses_lengths=False,
        default_beta=TRL_BETA,
        coefficients=_hinge,
    ),
    "ipo": Loss(
        name="ipo",
        title="IPO, averaged over tokens",
        formula="(r_c/n_c - r_r/n_r - 1/(2 beta))^2",
        source="arXiv 2310.12036, Eq. 17, with TRL DPOTrainer's token average",
        uses_reference=True,
        uses_lengths=True,
        default_beta=TRL_BETA,
        coefficients=_ipo,
    ),
    "sigmoid_norm": Loss(
        name="sigmoid_norm",
        title="DPO, length-normalised",
        formula="-log sigma(beta (r_c/n_c - r_r/n_r))",
        source="arXiv 2411.15124; TRL DPOTrainer",
        uses_reference=True,
        uses_lengths=True,
        default_beta=TRL_BETA,
        coefficients=_sigmoid_norm,
    ),
    "simpo": Loss(
        name="simpo",
        title="SimPO",
        formula=f"-log sigma(beta (z_c/n_c - z_r/n_r) - {SIMPO_MARGIN})",
        source="arXiv 2405.14734; TRL CPOTrainer with cpo_alpha 0",
        uses_reference=False,
        uses_lengths=True,
        default_beta=TRL_BETA,
        coefficients=_simpo,
    ),
    "cpo": Loss(
        name="cpo",
        title="CPO",
        formula=f"-log sigma(beta (z_c - z_r)) - {CPO_NLL_WEIGHT} z_c/n_c",
        source="arXiv 2401.08417; TRL CPOTrainer's token average of the likelihood",
        uses_reference=False,
        uses_lengths=True,
        default_beta=TRL_BETA,
        coefficients=_cpo,
    ),
    "dpop": Loss(
        name="dpop",
        title="DPO-Positive (Smaug)",
        formula=f"-log sigma(beta (r_c - r_r - {DPOP_PENALTY} max(0, -r_c)))",
        source="arXiv 2402.13228",
        uses_reference=True,
        uses_lengths=False,
        default_beta=TRL_BETA,
        coefficients=_dpop,
    ),
    "orpo": Loss(
        name="orpo",
        title="ORPO, response part",
        formula="-z_c/n_c - beta log sigma(o_c - o_r), o = log(p/(1 - p)), p = e^(z/n)",
        source="arXiv 2403.07691, Eqs. 4-7; without the prompt that TRL ORPOTrainer adds",
        uses_reference=False,
        uses_lengths=True,
        default_beta=TRL_BETA,
        coefficients=_orpo,
    ),
    "apo_zero": Loss(
        name="apo_zero",
        title="APO-zero",
        formula="1 - sigma(beta r_c) + sigma(beta r_r)",
        source="arXiv 2408.06266, Eq. 7; TRL DPOTrainer",
        uses_reference=True,
        uses_lengths=False,
        default_beta=TRL_BETA,
        coefficients=_apo_zero,
    ),
    "nca_pair": Loss(
        name="nca_pair",
        title="NCA, pairwise",
        formula="-log sigma(beta r_c) - 0.5 log sigma(-beta r_c) - 0.5 log sigma(-beta r_r)",
        source="arXiv 2402.05369; TRL DPOTrainer",
        uses_reference=True,
        uses_lengths=False,
        default_beta=TRL_BETA,
        coefficients=_nca_pair,
    ),
    "bco_pair": Loss(
        name="bco_pair",
        title="BCO, pairwise",
        formula="-log sigma(beta r_c) - log sigma(-beta r_r)",
        source="arXiv 2404.04656; TRL DPOTrainer, which has no reward shift",
        uses_reference=True,
        uses_lengths=False,
        default_beta=TRL_BETA,
        coefficients=_bco_pair,
    ),
    "sppo_hard": Loss(
        name="sppo_hard",
        title="SPPO, hard labels",
        formula="(r_c - 1/(2 beta))^2 + (r_r + 1/(2 beta))^2",
        source="arXiv 2405.00675, Eq. 4.7; TRL DPOTrainer",
        uses_reference=True,
        uses_lengths=False,
        default_beta=TRL_BETA,
        coefficients=_sppo_hard,
    ),
    "robust": Loss(
        name="robust",
        title="robust DPO",
        formula=(
            f"(-{1 - ROBUST_FLIP_RATE} log sigma(u) + {ROBUST_FLIP_RATE} log sigma(-u)) "
            f"/ {1 - 2 * ROBUST_FLIP_RATE}, u = beta (r_c - r_r)"
        ),
        source="arXiv 2403.00409; TRL DPOTrainer",
        uses_reference=True,
        uses_lengths=False,
        default_beta=TRL_BETA,
        coefficients=_robust,
    ),
}
"""Every loss by its name: the whole list, so that a new loss is one function and one row."""

# What people call these losses; difflib alone would answer "dpo" with "dpop".
_OTHER_NAMES = {
    "dpo": "sigmoid",
    "smaug": "dpop",
    "robust_dpo": "robust",
    "apo": "apo_zero",
    "nca": "nca_pair",
    "bco": "bco_pair",
    "sppo": "sppo_hard",
}
