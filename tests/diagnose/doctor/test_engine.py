"""The engine's own check: it agrees with autograd, and it sees an engine that does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from entangle_cli.api.doctoring import examine
from entangle_cli.data.checkpoint import Checkpoint, load_checkpoint
from entangle_cli.diagnose.doctor import engine as checked
from entangle_cli.diagnose.doctor.engine import check_engine, engine_findings
from entangle_cli.engine.engine import Engine
from entangle_cli.records.measurement import PairMeasurement, TokenizedPair, TokenizedResponse
from entangle_cli.records.settings import ScanSettings

SAMPLE = Path(__file__).resolve().parents[3] / "sample_data"


def pair_of(chosen: int, rejected: int) -> TokenizedPair:
    sides = [
        TokenizedResponse(tuple((7 * token + length) % 500 for token in range(length)), 4)
        for length in (chosen, rejected)
    ]
    return TokenizedPair(*sides)


PAIRS = [pair_of(40, 30), pair_of(12, 9), pair_of(21, 14)]


def checkpoint_in(dtype: str) -> Checkpoint:
    return load_checkpoint(str(SAMPLE / "model"), dtype, torch.device("cpu"))


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 2e-6), ("bfloat16", 2e-2)])
def test_the_engine_agrees_with_autograd(dtype: str, bound: float) -> None:
    checkpoint = checkpoint_in(dtype)
    check = check_engine(checkpoint, PAIRS)
    assert (check.num_pairs, check.reason) == (2, None)
    assert check.cosine is not None
    assert check.norm is not None
    assert 0 < max(check.cosine, check.norm) < bound
    assert not list(engine_findings(check, checkpoint.model.dtype))


def test_the_shortest_pairs_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TokenizedPair] = []
    truth = checked.measure_responses

    def noted(model: Any, pairs: Any, *rest: Any) -> Any:
        seen.extend(pairs)
        return truth(model, pairs, *rest)

    monkeypatch.setattr(checked, "measure_responses", noted)
    check_engine(checkpoint_in("float32"), PAIRS)
    assert seen == [PAIRS[1], PAIRS[2]]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("field", ["chosen_squared_norm", "inner_product"])
def test_an_engine_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch, dtype: str, field: str) -> None:
    right = Engine.measure

    def wrong(self: Engine, pairs: Sequence[TokenizedPair]) -> list[PairMeasurement]:
        return [replace(one, **{field: 1.2 * getattr(one, field)}) for one in right(self, pairs)]

    monkeypatch.setattr(Engine, "measure", wrong)
    checkpoint = checkpoint_in(dtype)
    findings = list(engine_findings(check_engine(checkpoint, PAIRS), checkpoint.model.dtype))
    assert [one.code for one in findings] == ["D-ENGINE"]


def test_it_says_why_it_compared_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_in("float32")
    assert check_engine(checkpoint, []).reason == "no usable pair"
    monkeypatch.setattr(checked, "free_bytes", lambda device: 2**20)
    check = check_engine(checkpoint, PAIRS)
    assert (check.num_pairs, check.cosine, check.norm) == (0, None, None)
    assert "autograd needs about" in str(check.reason)
    assert not list(engine_findings(check, torch.float32))


def test_memory_that_runs_out_ends_the_comparison_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(checked, "measure_responses", full)
    document = examine(str(SAMPLE / "model"), [str(SAMPLE / "one_token.jsonl")], ScanSettings(limit=4))
    assert document["data"][0]["engine"]["reason"] == "memory ran out"
    assert document["findings"] == []
