"""Learning rates over a run, from Trainer's own schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers import get_scheduler

from entangle_cli.errors import UsageError
from entangle_cli.records.settings import ForecastSettings

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
"""Values of Trainer's `lr_scheduler_type` that are supported."""


def learning_rates(settings: ForecastSettings, learning_rate: float, num_steps: int) -> Sequence[float]:
    """The learning rate of every step of a run, from Trainer's own schedule.

    Raises:
        UsageError: the schedule is unknown, or its warm-up is longer than the run.
    """
    if settings.lr_scheduler_type not in SCHEDULES:
        raise UsageError(
            f"--lr-scheduler-type {settings.lr_scheduler_type}",
            ", ".join(SCHEDULES),
            "use one of these; entangle does not know the learning rates of other schedules",
        )
    # As Trainer: below 1, the warm-up is a share of the run.
    warmup = settings.warmup_steps
    warmup = math.ceil(num_steps * warmup) if warmup < 1 else int(warmup)
    if warmup > num_steps:
        raise UsageError(
            f"--warmup-steps {warmup:,} in a run of {num_steps:,} steps",
            "a warm-up within the run",
            "lower --warmup-steps, or raise --horizon",
        )
    stand_in = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(settings.lr_scheduler_type, stand_in, warmup, num_steps)
    factor = schedule.lr_lambdas[0]
    return [learning_rate * float(factor(step)) for step in range(num_steps)]
