"""TRL's loss arguments as losses of this project. Formulas, not names, decide; see `analysis.losses`."""

from __future__ import annotations

from entangle_cli.data.trainer_files.keys import Keys
from entangle_cli.records.settings import LossSettings

SAME = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sigmoid_norm"),
)
"""Losses of DPOTrainer that have the same name here."""

SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")
"""Losses of DPOTrainer that read label_smoothing."""

OF_TRL = {
    "dpo": (*SAME, "sft"),
    "cpo": ("sigmoid", "hinge", "ipo", "simpo", "alphapo"),
    "simpo": ("sigmoid", "hinge", "ipo", "simpo", "alphapo"),
    "kto": ("kto", "apo_zero_unpaired"),
}
"""Method to the values of loss_type that TRL 1.16 accepts."""

DIVERGENCES = ("forward_kl", "js_divergence", "alpha_divergence")
LOSS_KEYS = ("loss_type", "loss_weights", "label_smoothing", "rpo_alpha", "f_divergence_type", "cpo_alpha", "alpha")


def loss_of(method: str, keys: Keys) -> LossSettings | None:
    """The loss of a training; None if there is no such loss here."""
    beta = keys.amount("beta", 0.1)
    if method == "orpo":
        return LossSettings("orpo", beta)
    if method == "kto":
        if keys.text("loss_type", "kto") != "kto":
            return None
        return kto_loss(keys, beta, "desirable_weight", "undesirable_weight")
    return _cpo_loss(method, keys, beta) if method in ("cpo", "simpo") else dpo_loss(keys, beta)


def kto_loss(keys: Keys, beta: float, chosen_key: str, rejected_key: str) -> LossSettings:
    """KTO with the weights of two keys."""
    numbers = {"chosen_weight": keys.amount(chosen_key, 1.0), "rejected_weight": keys.amount(rejected_key, 1.0)}
    return LossSettings("kto", beta, {name: value for name, value in numbers.items() if value != 1.0})


def dpo_loss(
    keys: Keys,
    beta: float,
    type_key: str = "loss_type",
    weights_key: str = "loss_weights",
    smoothing_key: str = "label_smoothing",
) -> LossSettings | None:
    """The loss of TRL's DPOTrainer; None if there is no such loss here."""
    names = keys.texts(type_key) or ["sigmoid"]
    weights = keys.numbers(weights_key) or [1.0] * len(names)
    smoothing = keys.amount(smoothing_key, 0.0)
    likelihood = keys.amount("rpo_alpha", 0.0)
    divergence = (keys.text("f_divergence_type", "reverse_kl") or "reverse_kl").rpartition(".")[2].lower()
    terms = dict(zip(names, weights, strict=False))
    if len(weights) != len(names) or len(terms) != len(names):
        return None
    if "sft" in terms and len(terms) == 2:
        likelihood = terms.pop("sft")
    if len(terms) != 1:
        return None
    ((name, weight),) = terms.items()
    if name not in SAME or weight <= 0:
        return None
    if weight != 1:
        keys.remark(weights_key, "only the ratio of weights is taken; the loss is larger by a factor")
    return _single(keys, name, beta, smoothing, likelihood / weight, divergence, smoothing_key)


def _single(
    keys: Keys, name: str, beta: float, smoothing: float, likelihood: float, divergence: str, smoothing_key: str
) -> LossSettings | None:
    if likelihood:
        plain = name == "sigmoid" and divergence == "reverse_kl"
        return LossSettings("sigmoid_sft", beta, {"nll_weight": likelihood}) if plain else None
    if divergence in DIVERGENCES:
        alpha = keys.amount("f_alpha_divergence_coef", 0.5)
        numbers = {"alpha": alpha} if divergence == "alpha_divergence" and alpha != 0.5 else {}
        return LossSettings(divergence, beta, numbers) if name == "sigmoid" else None
    if divergence != "reverse_kl":
        return None
    if smoothing and name not in SMOOTHED:
        keys.remark(smoothing_key, f"TRL's {name} loss does not read it")
    options: dict[str, float] = {}
    if name in SMOOTHED and (smoothing or name == "robust"):
        options["label_smoothing"] = smoothing
    tau = keys.amount("discopop_tau", 0.05)
    if name == "discopop" and tau != 0.05:
        options["tau"] = tau
    return LossSettings(name, beta, options)


def _cpo_loss(method: str, keys: Keys, beta: float) -> LossSettings | None:
    """The loss of TRL's CPOTrainer."""
    named = keys.texts("loss_type") if keys.has("loss_type") else []
    name = (named or ["simpo" if method == "simpo" else "sigmoid"])[0]
    weight, gamma = keys.amount("cpo_alpha", 1.0), keys.amount("simpo_gamma", 0.5)
    if keys.has("gamma_beta_ratio"):  # SimPO's own script, which has a likelihood term only if asked
        weight, gamma = keys.amount("sft_weight", 0.0), keys.amount("gamma_beta_ratio", 0.25) * beta
    smoothing, alpha = keys.amount("label_smoothing", 0.0), keys.amount("alpha", 0.0)
    if name == "alphapo" or (name == "simpo" and alpha and not weight):
        return LossSettings("alphapo", beta, {"gamma": gamma, "alpha": alpha}) if alpha else None
    if name == "simpo" and not alpha:
        return LossSettings("simpo", beta, {"gamma": gamma, "nll_weight": weight})
    if name == "sigmoid" and not alpha and not smoothing:
        return LossSettings("cpo", beta, {"nll_weight": weight})
    return None
