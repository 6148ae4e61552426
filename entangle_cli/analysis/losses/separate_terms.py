"""Losses with separate terms for chosen and rejected. The ratio of the coefficients depends on the log-probs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from entangle_cli.analysis.losses.loss import Coefficients, Loss, LossPoint, Option, logistic, logistic_slope, softplus
from entangle_cli.records.arrays import Floats

Numbers = Mapping[str, float]


def _apo_zero(point: LossPoint, numbers: Numbers) -> Coefficients:
    beta = numbers["beta"]
    return Coefficients(
        beta * logistic_slope(beta * point.chosen_log_ratio), beta * logistic_slope(beta * point.rejected_log_ratio)
    )


def _apo_down(point: LossPoint, numbers: Numbers) -> Coefficients:
    beta = numbers["beta"]
    push = logistic_slope(beta * point.margin)
    return Coefficients(beta * (push - logistic_slope(beta * point.chosen_log_ratio)), beta * push)


def _nca_pair(point: LossPoint, numbers: Numbers) -> Coefficients:
    beta = numbers["beta"]
    return Coefficients(
        beta * (1.0 - 1.5 * logistic(beta * point.chosen_log_ratio)),
        beta * 0.5 * logistic(beta * point.rejected_log_ratio),
    )


def _bco_pair(point: LossPoint, numbers: Numbers) -> Coefficients:
    beta = numbers["beta"]
    return Coefficients(
        beta * logistic(-beta * point.chosen_log_ratio), beta * logistic(beta * point.rejected_log_ratio)
    )


def _kto(point: LossPoint, numbers: Numbers) -> Coefficients:
    beta, z0 = numbers["beta"], numbers["z0"]
    return Coefficients(
        numbers["chosen_weight"] * beta * logistic_slope(beta * (point.chosen_log_ratio - z0)),
        numbers["rejected_weight"] * beta * logistic_slope(beta * (point.rejected_log_ratio - z0)),
    )


def _sppo_hard(point: LossPoint, numbers: Numbers) -> Coefficients:
    target = 1.0 / numbers["beta"]
    return Coefficients(target - 2.0 * point.chosen_log_ratio, target + 2.0 * point.rejected_log_ratio)


def _cal_dpo(point: LossPoint, numbers: Numbers) -> Coefficients:
    push = logistic(-point.margin)
    pull = _sppo_hard(point, numbers)
    return Coefficients(push + pull.chosen, push + pull.rejected)


def _dpo_shift(point: LossPoint, numbers: Numbers) -> Coefficients:
    beta, factor = numbers["beta"], numbers["factor"]
    push = beta * logistic(-beta * (point.chosen_log_ratio - factor * point.rejected_log_ratio))
    return Coefficients(push, factor * push)


def _aot_unpaired(point: LossPoint, numbers: Numbers) -> Coefficients:
    chosen, rejected = point.chosen_log_ratio, point.rejected_log_ratio
    known = np.flatnonzero(~np.isnan(chosen + rejected))
    chosen_order = known[np.argsort(chosen[known], kind="stable")]
    rejected_order = known[np.argsort(rejected[known], kind="stable")]
    logit = numbers["beta"] * (chosen[chosen_order] - rejected[rejected_order])
    push = numbers["beta"] * (logistic(-logit) - numbers["label_smoothing"])
    coefficients = Coefficients(np.full(len(chosen), np.nan), np.full(len(chosen), np.nan))
    coefficients.chosen[chosen_order] = push
    coefficients.rejected[rejected_order] = push
    return coefficients


def _divergence(
    score: Callable[[Floats, Numbers], Floats], slope: Callable[[Floats, Numbers], Floats]
) -> Callable[[LossPoint, Numbers], Coefficients]:
    """DPO on scores of the log-ratios instead of the log-ratios themselves."""

    def coefficients(point: LossPoint, numbers: Numbers) -> Coefficients:
        chosen, rejected = point.chosen_log_ratio, point.rejected_log_ratio
        margin = score(chosen, numbers) - score(rejected, numbers)
        push = numbers["beta"] * logistic(-numbers["beta"] * margin)
        return Coefficients(push * slope(chosen, numbers), push * slope(rejected, numbers))

    return coefficients


def _divergence_loss(name: str, title: str, score: str, coefficients: Callable[..., Coefficients]) -> Loss:
    return Loss(
        name=name,
        title=title,
        formula=f"-log sigma(beta (f(r_c) - f(r_r))), f(r) = {score}",
        source=f"arXiv 2309.16240; TRL DPOTrainer's f_divergence_type {name}",
        coefficients=coefficients,
        uses_reference=True,
        uses_lengths=False,
        options={"alpha": Option(0.5, "TRL's f_alpha_divergence_coef; not 1")} if name.startswith("alpha") else {},
    )


SEPARATE_TERMS = (
    Loss(
        name="apo_zero",
        title="APO-zero",
        formula="1 - sigma(beta r_c) + sigma(beta r_r)",
        source="arXiv 2408.06266, Eq. 7; TRL DPOTrainer",
        coefficients=_apo_zero,
        uses_reference=True,
        uses_lengths=False,
    ),
    Loss(
        name="apo_down",
        title="APO-down",
        formula="sigma(beta r_c) + 1 - sigma(u)",
        source="arXiv 2408.06266, Eq. 8; TRL DPOTrainer",
        coefficients=_apo_down,
        uses_reference=True,
        uses_lengths=False,
        by_design="both fall by design: for chosen answers that the policy should unlearn too",
    ),
    Loss(
        name="nca_pair",
        title="NCA, pairwise",
        formula="-log sigma(beta r_c) - 0.5 log sigma(-beta r_c) - 0.5 log sigma(-beta r_r)",
        source="arXiv 2402.05369; TRL DPOTrainer",
        coefficients=_nca_pair,
        uses_reference=True,
        uses_lengths=False,
    ),
    Loss(
        name="bco_pair",
        title="BCO, pairwise",
        formula="-log sigma(beta r_c) - log sigma(-beta r_r)",
        source="arXiv 2404.04656; TRL DPOTrainer, without a reward shift",
        coefficients=_bco_pair,
        uses_reference=True,
        uses_lengths=False,
    ),
    Loss(
        name="kto",
        title="KTO, paired",
        formula="chosen_weight (1 - sigma(beta (r_c - z0))) + rejected_weight (1 - sigma(beta (z0 - r_r)))",
        source="arXiv 2402.01306, Eqs. 7-8; two times TRL KTOTrainer's mean over single answers",
        coefficients=_kto,
        uses_reference=True,
        uses_lengths=False,
        options={
            "z0": Option(0.0, "KL estimate of the batch, nats; 0 if policy = reference", 0.0),
            "chosen_weight": Option(1.0, "TRL's desirable_weight", 0.0),
            "rejected_weight": Option(1.0, "TRL's undesirable_weight", 0.0),
        },
    ),
    Loss(
        name="sppo_hard",
        title="SPPO, hard labels",
        formula="(r_c - 1/(2 beta))^2 + (r_r + 1/(2 beta))^2",
        source="arXiv 2405.00675, Eq. 4.7; TRL DPOTrainer",
        coefficients=_sppo_hard,
        uses_reference=True,
        uses_lengths=False,
    ),
    Loss(
        name="cal_dpo",
        title="Cal-DPO",
        formula="-log sigma(r_c - r_r) + (r_c - 1/(2 beta))^2 + (r_r + 1/(2 beta))^2",
        source="arXiv 2412.14516",
        coefficients=_cal_dpo,
        uses_reference=True,
        uses_lengths=False,
    ),
    Loss(
        name="dpo_shift",
        title="DPO-Shift",
        formula="-log sigma(beta (r_c - factor r_r))",
        source="arXiv 2502.07599",
        coefficients=_dpo_shift,
        uses_reference=True,
        uses_lengths=False,
        options={"factor": Option(0.75, "factor of the rejected log-ratio; 1 is DPO", 0.0)},
    ),
    Loss(
        name="aot_unpaired",
        title="AOT, unpaired",
        formula="cdpo on log-ratios of equal rank: u = beta (sorted(r_c) - sorted(r_r))",
        source="arXiv 2406.05882; TRL DPOTrainer",
        coefficients=_aot_unpaired,
        uses_reference=True,
        uses_lengths=False,
        depends_on_batch=True,
        options={"label_smoothing": Option(0.0, "assumed share of flipped labels", 0.0, 0.5)},
    ),
    _divergence_loss(
        "forward_kl",
        "DPO, forward KL",
        "1 - exp(-r)",
        _divergence(lambda ratio, _: -np.expm1(-ratio), lambda ratio, _: np.exp(-ratio)),
    ),
    _divergence_loss(
        "js_divergence",
        "DPO, Jensen-Shannon",
        "log 2 + log sigma(r)",
        _divergence(lambda ratio, _: -softplus(-ratio), lambda ratio, _: logistic(-ratio)),
    ),
    _divergence_loss(
        "alpha_divergence",
        "DPO, alpha divergence",
        "(exp((alpha - 1) r) - 1) / (alpha - 1)",
        _divergence(
            lambda ratio, numbers: np.expm1((numbers["alpha"] - 1.0) * ratio) / (numbers["alpha"] - 1.0),
            lambda ratio, numbers: np.exp((numbers["alpha"] - 1.0) * ratio),
        ),
    ),
)
