"""Which of TRL's trainers trains a loss, and with which arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from entangle_cli.analysis.losses.table import find_loss, loss_numbers
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import LossSettings

Numbers = Mapping[str, float]

DPO, CPO, ORPO = "DPOTrainer", "CPOTrainer", "ORPOTrainer"


@dataclass(frozen=True, slots=True)
class TrainerOfLoss:
    """A trainer of TRL with its arguments for a loss."""

    trainer: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Row:
    trainer: str
    arguments: Callable[[Numbers], Mapping[str, Any]] = lambda _: {}


def _smoothed(name: str) -> _Row:
    return _Row(DPO, lambda numbers: {"loss_type": name, "label_smoothing": numbers["label_smoothing"]})


def _plain(name: str) -> _Row:
    return _Row(DPO, lambda _: {"loss_type": name})


PLAIN = ("sigmoid", "hinge", "ipo", "sigmoid_norm", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down")
SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")

TABLE: Mapping[str, _Row] = {
    **{name: _plain(name) for name in PLAIN},
    **{name: _smoothed(name) for name in SMOOTHED},
    "discopop": _Row(DPO, lambda numbers: {"loss_type": "discopop", "discopop_tau": numbers["tau"]}),
    "sigmoid_sft": _Row(
        DPO, lambda numbers: {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, numbers["nll_weight"]]}
    ),
    "forward_kl": _Row(DPO, lambda _: {"f_divergence_type": "forward_kl"}),
    "js_divergence": _Row(DPO, lambda _: {"f_divergence_type": "js_divergence"}),
    "alpha_divergence": _Row(
        DPO,
        lambda numbers: {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": numbers["alpha"]},
    ),
    "simpo": _Row(
        CPO,
        lambda numbers: {
            "loss_type": "simpo",
            "simpo_gamma": numbers["gamma"],
            "cpo_alpha": numbers["nll_weight"],
        },
    ),
    "alphapo": _Row(
        CPO, lambda numbers: {"loss_type": "alphapo", "simpo_gamma": numbers["gamma"], "alpha": numbers["alpha"]}
    ),
    "cpo": _Row(CPO, lambda numbers: {"loss_type": "sigmoid", "cpo_alpha": numbers["nll_weight"]}),
    "orpo": _Row(ORPO),
}
"""entangle's losses that TRL has a trainer for."""


def trainer_of(loss: LossSettings) -> TrainerOfLoss:
    """TRL's trainer for a loss, with its arguments.

    Raises:
        UsageError: the loss or one of its numbers is unknown, or TRL has no trainer for it.
    """
    numbers = loss_numbers(loss)
    name = find_loss(loss.name).name
    if name not in TABLE:
        raise UsageError(
            f"loss {name}: TRL has no trainer for it",
            f"one of {', '.join(TABLE)}",
            "rehearse one of these; entangle report --loss shows the others from a scan",
            topic="training",
        )
    row = TABLE[name]
    return TrainerOfLoss(row.trainer, {"beta": loss.beta, **row.arguments(numbers)})
