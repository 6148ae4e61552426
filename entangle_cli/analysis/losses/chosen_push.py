"""Losses with an extra term for the chosen answer. It makes the chosen coefficient the larger one."""

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

Numbers = Mapping[str, float]


def _dpop(point: LossPoint, numbers: Numbers) -> Coefficients:
    penalty, fall = numbers["penalty"], np.maximum(0.0, -point.chosen_log_ratio)
    push = numbers["beta"] * logistic(-numbers["beta"] * (point.margin - penalty * fall))
    return Coefficients(push * (1.0 + penalty * (fall > 0)), push)


def _sigmoid_sft(point: LossPoint, numbers: Numbers) -> Coefficients:
    push = numbers["beta"] * logistic(-numbers["beta"] * point.margin)
    return Coefficients(push + numbers["nll_weight"] / point.chosen_length, push)


def _cpo(point: LossPoint, numbers: Numbers) -> Coefficients:
    push = numbers["beta"] * logistic(-numbers["beta"] * (point.chosen_log_prob - point.rejected_log_prob))
    return Coefficients(push + numbers["nll_weight"] / point.chosen_length, push)


def _slic_hf(point: LossPoint, numbers: Numbers) -> Coefficients:
    push = where_below(point.chosen_log_prob - point.rejected_log_prob, numbers["margin"], 1.0)
    return Coefficients(push + numbers["nll_weight"], push)


def _orpo(point: LossPoint, numbers: Numbers) -> Coefficients:
    chosen_mean = point.chosen_log_prob / point.chosen_length
    rejected_mean = point.rejected_log_prob / point.rejected_length
    chosen_rest, rejected_rest = -np.expm1(chosen_mean), -np.expm1(rejected_mean)
    # beta sigma(o_r - o_c) / (1 - p_c) with the odds multiplied out: exact even if p_c = 1 and o_c is infinite.
    odds_push = numbers["beta"] / (chosen_rest + rejected_rest * np.exp(chosen_mean - rejected_mean))
    return Coefficients(
        (1.0 + odds_push) / point.chosen_length,
        odds_push * chosen_rest / rejected_rest / point.rejected_length,
    )


CHOSEN_PUSH = (
    Loss(
        name="dpop",
        title="DPO-Positive (Smaug)",
        formula="-log sigma(u - beta penalty max(0, -r_c))",
        source="arXiv 2402.13228",
        coefficients=_dpop,
        uses_reference=True,
        uses_lengths=False,
        options={"penalty": Option(50.0, "lambda; arXiv 2410.13828 uses 50, the paper 5, 50 and 500", 0.0)},
    ),
    Loss(
        name="sigmoid_sft",
        title="DPO with likelihood (RPO)",
        formula="-log sigma(u) - nll_weight z_c/n_c",
        source="arXiv 2404.19733, Eq. 1; TRL DPOTrainer's [sigmoid, sft], which averages over a batch's tokens",
        coefficients=_sigmoid_sft,
        uses_reference=True,
        uses_lengths=True,
        options={"nll_weight": Option(1.0, "weight of sft in TRL's loss_weights", 0.0)},
    ),
    Loss(
        name="cpo",
        title="CPO",
        formula="-log sigma(beta (z_c - z_r)) - nll_weight z_c/n_c",
        source="arXiv 2401.08417; TRL CPOTrainer's token average of the likelihood",
        coefficients=_cpo,
        uses_reference=False,
        uses_lengths=True,
        options={"nll_weight": Option(1.0, "TRL's cpo_alpha", 0.0)},
        by_design=LIKELIHOOD_RAISES_BOTH,
    ),
    Loss(
        name="slic_hf",
        title="SLiC-HF",
        formula="max(0, margin - z_c + z_r) - nll_weight z_c",
        source="arXiv 2305.10425, Eq. 1",
        coefficients=_slic_hf,
        uses_reference=False,
        uses_lengths=False,
        uses_beta=False,
        options={"margin": Option(1.0, "nats", 0.0), "nll_weight": Option(0.1, "of the summed likelihood", 0.0)},
        by_design=LIKELIHOOD_RAISES_BOTH,
    ),
    Loss(
        name="orpo",
        title="ORPO, response part",
        formula="-z_c/n_c - beta log sigma(o_c - o_r), o = log(p/(1 - p)), p = e^(z/n)",
        source="arXiv 2403.07691, Eqs. 4-7; without the prompt term that TRL ORPOTrainer adds",
        coefficients=_orpo,
        uses_reference=False,
        uses_lengths=True,
        by_design=LIKELIHOOD_RAISES_BOTH,
    ),
)
