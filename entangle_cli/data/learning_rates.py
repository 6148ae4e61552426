"""Learning rates over a run, from Trainer's own schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn
from transformers import get_scheduler

from entangle_cli.errors import UsageError
from entangle_cli.records.settings import Schedule


class Scheduled(Protocol):
    """Settings of a run with a schedule of the learning rate."""

    @property
    def lr_scheduler_type(self) -> str:
        """A value of `Schedule`."""

    @property
    def warmup_steps(self) -> float:
        """Steps with a rising learning rate, or their share of the run if below 1."""


def learning_rates(settings: Scheduled, learning_rate: float, num_steps: int) -> Sequence[float]:
    """The learning rate of every step of a run, from Trainer's own schedule.

    Raises:
        UsageError: see `refuse_schedule`.
    """
    refuse_schedule(settings, num_steps)
    stand_in = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(settings.lr_scheduler_type, stand_in, _warmup(settings, num_steps), num_steps)
    factor = schedule.lr_lambdas[0]
    return [learning_rate * float(factor(step)) for step in range(num_steps)]


def refuse_schedule(settings: Scheduled, num_steps: int | None) -> None:
    """Check the schedule of a run.

    Args:
        num_steps: steps of the run; None if unknown so far.
    Raises:
        UsageError: the schedule is unknown, or the warm-up is no number of steps or longer than the run.
    """
    names = [schedule.value for schedule in Schedule]
    if settings.lr_scheduler_type not in names:
        raise UsageError(
            f"--lr-scheduler-type {settings.lr_scheduler_type}",
            ", ".join(names),
            "use one of these; entangle does not know the learning rates of other schedules",
        )
    if not (math.isfinite(settings.warmup_steps) and settings.warmup_steps >= 0):
        raise UsageError(
            f"--warmup-steps {settings.warmup_steps:g}",
            "a number of steps, or a share of the run below 1",
            "set it as in your training, such as 0.1 or 20",
        )
    if num_steps is not None and _warmup(settings, num_steps) > num_steps:
        raise UsageError(
            f"--warmup-steps {settings.warmup_steps:g} in a run of {num_steps:,} steps",
            "a warm-up within the run",
            "lower --warmup-steps, or raise --horizon",
        )


def _warmup(settings: Scheduled, num_steps: int) -> int:
    """Steps of the warm-up. As in Trainer, a number below 1 is a share of the run."""
    warmup = settings.warmup_steps
    return math.ceil(num_steps * warmup) if warmup < 1 else int(warmup)
