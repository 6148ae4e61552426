"""Learning rates over a run, against transformers' schedulers."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from entangle_cli.data.learning_rates import learning_rates, refuse_schedule
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import ForecastSettings, Schedule


@pytest.mark.parametrize("warmup", [0, 3, 0.25])
@pytest.mark.parametrize("name", [schedule.value for schedule in Schedule])
def test_learning_rates_are_those_of_trainer(name: str, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-5)
    scheduler = get_scheduler(name, optimizer, int(warmup if warmup >= 1 else 12 * warmup), 12)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    settings = ForecastSettings(lr_scheduler_type=name, warmup_steps=warmup)
    assert learning_rates(settings, 2e-5, 12) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "warmup"),
    [("linear", 13), ("polynomial", 0), ("linear", -1), ("linear", float("nan")), ("cosine", float("inf"))],
)
def test_impossible_schedules_are_refused(name: str, warmup: float) -> None:
    with pytest.raises(UsageError):
        learning_rates(ForecastSettings(lr_scheduler_type=name, warmup_steps=warmup), 1e-5, 12)


def test_a_long_warmup_is_not_refused_before_the_length_of_the_run_is_known() -> None:
    refuse_schedule(ForecastSettings(warmup_steps=500), None)
