"""A rehearsal: the rows, the schedule and the identity that all its losses share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from entangle_cli.data.learning_rates import learning_rates
from entangle_cli.data.pairs import SkippedRow
from entangle_cli.data.training_rows import TrainingRow
from entangle_cli.diagnose.rehearse.followed_probes import RehearsalProbes
from entangle_cli.records.settings import Dtype, LossSettings, RehearsalSettings, ScanSettings

MEASUREMENTS = 10
"""Measurements of the probe pairs after the first one, unless `every` says otherwise."""


def weights_dtype(dtype: str) -> str:
    """Dtype of the weights in a training of a dtype."""
    return Dtype.FLOAT32.value if dtype == Dtype.BFLOAT16 else dtype


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A rehearsal that is ready to start, created by `open_rehearsal`."""

    model: str
    """The checkpoint's folder or hub name."""
    device: torch.device
    measuring: ScanSettings
    """How to read, tokenise and load. The loss does not count."""
    settings: RehearsalSettings
    rows: Sequence[TrainingRow]
    """Pairs in training, as TRL gets them."""
    held_out: Sequence[TrainingRow]
    skipped: Sequence[SkippedRow]
    """Rows that hold no pair."""
    max_length: int | None
    """Limit on tokens of prompt and response together; None for no limit."""
    identity: Mapping[str, Any]
    """Everything but the losses that determines the numbers, JSON-able."""
    probes: RehearsalProbes | None = None
    """Answers to follow; None without them."""

    @property
    def weights_dtype(self) -> str:
        """Dtype of the weights, in which all is measured. bfloat16 is that of the computation of a step, as in TRL: its
        rounding of a log-prob is larger than what a few steps change."""
        return weights_dtype(self.measuring.dtype)

    @property
    def horizon(self) -> int:
        """Steps of the whole run."""
        if self.settings.horizon is not None:
            return self.settings.horizon
        steps_per_epoch = max(1, math.ceil(len(self.rows) / (self.settings.batch_size * self.settings.accumulate)))
        return math.ceil(self.settings.epochs * steps_per_epoch)

    @property
    def num_steps(self) -> int:
        """Real steps per loss."""
        return min(self.settings.steps, self.horizon)

    @property
    def every(self) -> int:
        """Steps between two measurements."""
        return self.settings.every or max(1, self.num_steps // MEASUREMENTS)

    def learning_rates(self) -> Sequence[float]:
        """The learning rate of every step of the whole run."""
        return learning_rates(self.settings, self.settings.learning_rate, self.horizon)


def loss_key(loss: LossSettings) -> str:
    """Name of a loss within a rehearsal, such as `simpo-beta2-gamma0.5`; also its folder."""
    numbers = {"beta": loss.beta, **loss.options}
    return "-".join([loss.name, *(f"{name}{value:g}" for name, value in sorted(numbers.items()))])
