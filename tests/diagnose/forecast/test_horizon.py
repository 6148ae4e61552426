"""The end of a run: changes against real runs and an independent formula."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import entangle_cli
from entangle_cli.diagnose.forecast import document
from entangle_cli.diagnose.forecast.horizon import probe_positions
from entangle_cli.diagnose.forecast.result import LARGEST_DRIFT, RunReach
from entangle_cli.records.settings import ForecastSettings
from entangle_cli.report.forecast import forecast_report
from tests.diagnose.forecast.test_forecast import (
    BETA,
    DATA,
    MODEL,
    SETTINGS,
    STEP,
    assert_close,
    fresh,
    log_probs,
    real_change,
    run,
)
from tests.true_float64 import TrueFloat64

CONSTANT = replace(STEP, lr_scheduler_type="constant")


def test_a_short_run_of_plain_descent_is_what_really_happens() -> None:
    result = run(replace(CONSTANT, optimizer="sgd", learning_rate=1e-6, horizon=4))
    assert_close(result.training.changes["run"], real_change(torch.optim.SGD, 4, lr=1e-6), 1e-2)
    assert result.reach.num_steps == 4
    assert result.reach.learning_rate_sum == pytest.approx(4e-6)


def test_the_whole_data_moves_a_pair_of_every_batch() -> None:
    """One epoch of SGD in batches of two takes every pair along, whatever its own batch was."""
    result = run(replace(CONSTANT, optimizer="sgd", learning_rate=1e-6, batch_size=2))
    assert result.reach.num_steps == 3
    # The mean of three batches of two is the batch of all six.
    assert_close(result.training.changes["run"], 3 * real_change(torch.optim.SGD, 1, lr=1e-6), 2e-3)


def batch_descents(places_of_steps: list[list[int]], clip: float) -> list[list[torch.Tensor]]:
    """Minus the clipped gradients of DPO's loss on each batch, at the checkpoint, by autograd."""
    descents = []
    for places in places_of_steps:
        model = fresh()
        with TrueFloat64():
            before = log_probs(model, places)
            ratios = before - before.detach()
            (-torch.nn.functional.logsigmoid(BETA * (ratios[0] - ratios[1])).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        descents.append([-parameter.grad for parameter in model.parameters()])
    return descents


def test_adamw_divides_by_the_root_of_the_mean_squares() -> None:
    step = replace(CONSTANT, learning_rate=1e-7, batch_size=2, horizon=10, max_grad_norm=0.05)
    result = run(step)
    order = np.random.default_rng(SETTINGS.seed).permutation(6).tolist()
    descents = batch_descents([order[:2], order[2:4], order[4:]], clip=0.05)
    model = fresh()
    changes = []
    for sign in (1.0, -1.0):
        moved = fresh()
        with torch.no_grad():
            for place, parameter in enumerate(moved.parameters()):
                parts = torch.stack([descent[place] for descent in descents])
                squares = parts.square().mean(0)
                root = squares.clamp(min=0.01 * squares.mean()).sqrt() + 1e-8
                parameter += sign * 10 * 1e-7 * parts.mean(0) / root
            with TrueFloat64():
                changes.append((log_probs(moved) - log_probs(model)).numpy())
    assert_close(result.training.changes["run"], (changes[0] - changes[1]) / 2, 2e-3)


def test_held_out_pairs_move_along_too() -> None:
    step = replace(CONSTANT, learning_rate=1e-7, batch_size=2, horizon=10)
    result = run(step, eval_data=DATA)
    assert result.held_out is not None
    own = result.training.changes["run"]
    np.testing.assert_allclose(result.held_out.changes["run"][:, :6], own, rtol=1e-6, atol=1e-9 * np.abs(own).max())


def test_gradients_drift_with_the_length_of_a_run() -> None:
    drifts = [run(replace(CONSTANT, learning_rate=1e-6, horizon=steps)).reach.drift for steps in (1, 10, 100)]
    assert 0 < drifts[0] < drifts[1] < drifts[2]
    assert drifts[1] == pytest.approx(10 * drifts[0], rel=0.1)


@pytest.mark.parametrize(("num_pairs", "positions"), [(1, [0]), (3, [0, 1, 2]), (9, [0, 4, 8])])
def test_probes_are_spread_over_the_data(num_pairs: int, positions: list[int]) -> None:
    assert probe_positions(num_pairs, 3) == positions


def reach(drift: float | None) -> RunReach:
    return RunReach(10, 1e-5, 0.0, drift, 12)


def test_what_drifts_too_far_is_not_known() -> None:
    assert reach(LARGEST_DRIFT).holds is True
    assert reach(LARGEST_DRIFT * 1.01).holds is False
    assert reach(None).holds is None


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    step = ForecastSettings(learning_rate=1e-7, batch_size=3, horizon=10, warmup_steps=0.2)
    return entangle_cli.forecast(str(MODEL), str(DATA), replace(SETTINGS, dtype="float32"), step)


def shown(value: dict[str, Any]) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(forecast_report(value))
    return captured.get()


def test_the_document_tells_the_run(found: dict[str, Any]) -> None:
    assert found["run"]["num_steps"] == 10
    assert found["run"]["lr_scheduler_type"] == "linear"
    assert found["run"]["drift_limit"] == LARGEST_DRIFT
    start, end = found["run"]["training"]["start"], found["run"]["training"]["end"]
    assert start == {"loss": pytest.approx(np.log(2)), "margin": 0.0, "accuracy": 0.0}
    assert end["loss"] < start["loss"]
    deltas = [(pair["run"]["chosen_delta"], pair["run"]["rejected_delta"]) for pair in found["pairs"]]
    margins = BETA * np.array([chosen - rejected for chosen, rejected in deltas])
    assert end["margin"] == pytest.approx(margins.mean())
    assert end["accuracy"] == pytest.approx((margins > 0).mean())
    assert end["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean())
    counts = {name: part["count"] for name, part in found["summary"]["movements"]["run"].items()}
    assert sum(counts.values()) == len(found["pairs"])


def test_the_report_says_at_most_or_that_it_does_not_know(found: dict[str, Any]) -> None:
    held = {**found, "run": {**found["run"], "holds": True}}
    assert "At most: real log-probs end lower" in shown(held)
    lost = {**found, "run": {**found["run"], "holds": False, "drift": 0.9}}
    assert "not known: along this run the gradients of 6 probed pairs change by 0.9" in shown(lost)
    assert "At most" not in shown(lost)
    assert "After 10 steps, by run: at least" in shown(held)
    assert "After 10 steps" not in shown(lost)


def test_every_predictor_of_a_pair_is_in_the_document(found: dict[str, Any]) -> None:
    assert {"pair-sgd", "batch-sgd", "optimizer", "run"} <= found["pairs"][0].keys()
    assert found["pairs"][0]["run"].keys() == {"chosen_delta", "rejected_delta", "movement", "uncertain"}
    assert document.ONE_STEP == ("pair-sgd", "batch-sgd", "optimizer")
