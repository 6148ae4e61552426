"""All losses by name, and the coefficients of pairs under one of them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

import numpy as np

from entangle_cli.analysis.losses.chosen_push import CHOSEN_PUSH
from entangle_cli.analysis.losses.equal_push import EQUAL_PUSH
from entangle_cli.analysis.losses.length_normalised import LENGTH_NORMALISED
from entangle_cli.analysis.losses.loss import TRL_BETA, Coefficients, Loss, LossPoint
from entangle_cli.analysis.losses.separate_terms import SEPARATE_TERMS
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import LossSettings

LOSSES: dict[str, Loss] = {loss.name: loss for loss in (*EQUAL_PUSH, *LENGTH_NORMALISED, *CHOSEN_PUSH, *SEPARATE_TERMS)}
"""All losses. A new loss needs one function and one entry in its family."""

# Common names of these losses. difflib alone would suggest "dpop" for "dpo".
OTHER_NAMES = {
    "dpo": "sigmoid",
    "smaug": "dpop",
    "robust_dpo": "robust",
    "apo": "apo_zero",
    "nca": "nca_pair",
    "bco": "bco_pair",
    "sppo": "sppo_hard",
    "exo": "exo_pair",
    "rpo": "sigmoid_sft",
    "r-dpo": "rdpo",
    "slic": "slic_hf",
}


def find_loss(name: str) -> Loss:
    """The loss of that name in `LOSSES`.

    Raises:
        UsageError: there is no loss of that name.
    """
    if name in LOSSES:
        return LOSSES[name]
    near = OTHER_NAMES.get(name.lower()) or next(iter(difflib.get_close_matches(name.lower(), LOSSES, n=1)), None)
    hint = f"did you mean {near!r}?" if near else "choose one of these"
    raise UsageError(f"unknown loss {name!r}", f"one of {', '.join(LOSSES)}", hint, topic="losses")


def loss_numbers(settings: LossSettings) -> dict[str, float]:
    """Beta and all options of a loss, including defaults.

    Raises:
        UsageError: the loss is unknown, beta is not a positive finite number, the loss does not have one of the
            options, or an option is outside its range.
    """
    loss = find_loss(settings.name)
    if not (math.isfinite(settings.beta) and settings.beta > 0):
        raise UsageError(
            f"beta = {settings.beta!r} for loss {loss.name!r}",
            "a finite number above 0",
            f"set beta to the value used in training, or omit it for the default, {TRL_BETA}",
            topic="losses",
        )
    for name, value in settings.options.items():
        _refuse_option(loss, name, value)
    defaults = {name: option.default for name, option in loss.options.items()}
    return {"beta": settings.beta, **defaults, **settings.options}


def _refuse_option(loss: Loss, name: str, value: float) -> None:
    if name not in loss.options:
        known = ", ".join(loss.options) or ("none except beta" if loss.uses_beta else "none")
        near = next(iter(difflib.get_close_matches(name, loss.options, n=1)), None)
        raise UsageError(
            f"loss {loss.name!r} has no option {name!r}",
            f"an option of this loss: {known}",
            f"did you mean {near!r}?" if near else "remove the option, or choose another loss",
            topic="losses",
        )
    option = loss.options[name]
    if not (math.isfinite(value) and option.low <= value <= option.high) or _is_singular(loss, name, value):
        raise UsageError(
            f"{name} = {value!r} for loss {loss.name!r}",
            f"a finite number{_range(option.low, option.high)}: {option.meaning}",
            f"set {name} to the value used in training, or omit it for the default, {option.default:g}",
            topic="losses",
        )


def _is_singular(loss: Loss, name: str, value: float) -> bool:
    """Whether the formula is 0/0 at this value. Such values are inside the range; the limit is another loss."""
    return (loss.name, name, value) in {("alphapo", "alpha", 0.0), ("alpha_divergence", "alpha", 1.0)}


def _range(low: float, high: float) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f" from {low:g} to {high:g}"
    return f" of at least {low:g}" if math.isfinite(low) else ""


def loss_coefficients(settings: LossSettings, point: LossPoint) -> Coefficients:
    """The coefficients of the two gradients of every pair under a loss.

    -grad loss = chosen * grad chosen_log_prob - rejected * grad rejected_log_prob, hence
    chosen = -d loss/d chosen_log_prob and rejected = +d loss/d rejected_log_prob. These are d_w and d_l of
    the general margin loss of arXiv 2410.13828. Partial derivatives also cover losses without a margin.

    Args:
        settings: the loss, its beta and options.
        point: the pairs, [pairs]. A loss that depends on the batch treats them as one batch.
    Returns:
        Both coefficients, [pairs], float64, per nat. Negative if the loss pushes against the label, NaN if the point
        holds a NaN, infinite or NaN if the loss itself is infinite (ORPO at probability 1, exponential losses far
        from the reference).
    Raises:
        UsageError: see `loss_numbers`.
    Precision: float64; the logistic never overflows.  Cost: O(pairs) time and memory, plus a sort for AOT.
    """
    loss = find_loss(settings.name)
    numbers: Mapping[str, float] = loss_numbers(settings)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        return loss.coefficients(point, numbers)
