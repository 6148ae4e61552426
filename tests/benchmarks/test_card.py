"""The check for a machine with a GPU runs, and sees a wrong engine. Rehearsed on the CPU."""

from __future__ import annotations

import time
from typing import Any

import pytest

from entangle_cli.engine.engine import Engine
from tests.benchmarks import card, engine_speed


def check(budget: float = 300.0) -> card.Check:
    return card.Check("cpu", True, time.monotonic() + budget)


def test_every_step_runs() -> None:
    shapes = dict(engine_speed.SHAPES)
    found = card.run_steps(check(), list(card.STEPS))
    assert shapes == engine_speed.SHAPES
    assert found["families"]["wrong"] == []
    assert found["families"]["runs"] >= 9
    assert found["ceilings"]["bytes_per_second"] > 1e6
    (case,) = found["speed"].values()
    assert case["entangle"] > 0.5
    assert case["pairs_per_second"] == pytest.approx(1 / (case["entangle"] * case["floor_seconds_per_pair"]))
    assert found["lengths"]["batches"] >= 1
    assert found["profile"]
    assert not any("failed" in numbers for numbers in found.values())


def test_a_wrong_engine_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Engine.measure
    monkeypatch.setattr(Engine, "measure", lambda self, pairs: right(self, pairs)[::-1])
    assert card.families(check())["wrong"]


def test_what_fails_or_has_no_time_does_not_stop_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: card.Check) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(card, "STEPS", {**card.STEPS, "speed": failing})
    found = card.run_steps(check(), ["speed", "ceilings"])
    assert found["speed"] == {"failed": "RuntimeError: CUDA error: device-side assert triggered"}
    assert found["ceilings"]["launch_seconds"] > 0
    assert card.run_steps(check(0.0), ["ceilings"]) == {"ceilings": {"left_out": "no time was left"}}
