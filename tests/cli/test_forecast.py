"""The command `entangle forecast`: printed output, files and refused input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import LONG, MODEL, SAMPLE, Entangle


def test_a_forecast_with_everything(entangle: Entangle, tmp_path: Path) -> None:
    outcome = entangle(
        "forecast", MODEL, LONG, "--limit", "8", "--batch-size", "4", "--learning-rate", "1e-6",
        "--verify",
        "--eval-data", SAMPLE / "one_token.jsonl", "--loss", "simpo", "--beta", "2", "--json", "forecast.json",
    )  # fmt: skip
    assert outcome.code == 0
    text = " ".join(outcome.out.split())
    for words in (
        "adamw, learning rate 1e-06, weight decay 0, gradient clipped to 1",
        "8 pairs, 2 steps of up to 4 pairs, each from these weights; loss simpo, beta 2, gamma 0.5, nll_weight 0",
        "pair-sgd",
        "batch-sgd",
        "held-out pairs",
        "Pairs against one another",
        "Real steps",
        "by optimizer (the batch's first step)",
    ):
        assert words in text
    for words in (
        "forecasting 2 steps of 8 pairs",
        "real steps at a learning rate of 1e-05",
    ):
        assert words in outcome.err
    document = json.loads((tmp_path / "forecast.json").read_text())
    assert document["schema"] == "entangle.forecast"
    assert [row["index"] for row in document["pairs"]] == list(range(8))
    assert len(document["held_out"]) == 100
    assert {row["predictor"] for row in document["verification"]} == {"pair-sgd", "batch-sgd", "optimizer"}
    by_optimizer = [row for row in document["verification"] if row["predictor"] == "optimizer"]
    assert by_optimizer[0]["slope"] == pytest.approx(1.0, abs=0.02)
    for row in document["pairs"]:
        assert row["optimizer"]["movement"] in {"separates", "both_rise", "both_fall", "reversed", "still"}
        assert row["real_step"]["chosen_delta"] is not None
    assert not list(tmp_path.glob("entangle-runs*")), "a forecast is no run"


def test_a_forecast_of_one_pair(entangle: Entangle) -> None:
    outcome = entangle("forecast", MODEL, LONG, "--limit", "1", "--optimizer", "sgd", "--learning-rate", "1e-7")
    assert outcome.code == 0
    assert "Pairs against one another" not in outcome.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--gradient-accumulation-steps", "2"], 2, "--gradient-accumulation-steps without --batch-size"),
        (["--learning-rate", "0"], 2, "learning rate 0"),
        (["--learning-rate", "nan"], 2, "learning rate nan"),
        (["--state", "nowhere.pt"], 3, "no such file"),
        (["--optimizer", "sgd", "--state", "x.pt"], 2, "has no state"),
        (["--loss", "simpoo"], 2, "did you mean 'simpo'"),
        (["--json", "no/such/folder.json"], 2, "no such folder"),
        (["--eval-data", "nowhere.jsonl"], 3, "nowhere.jsonl"),
        (["--optimizer", "lion"], 2, "lion"),
        (["--probe", "nowhere.jsonl"], 3, "nowhere.jsonl: no such file"),
        (["--probe", str(LONG)], 3, "no completion; --probe-generate answers it"),
        (["--probe-generate", "8"], 2, "--probe-generate without --probe"),
        (["--ref-model", "./nowhere"], 3, "no such folder"),
    ],
)
def test_invalid_forecasts_are_refused(entangle: Entangle, words: list[str], code: int, message: str) -> None:
    outcome = entangle("forecast", MODEL, LONG, "--limit", "2", *words)
    assert outcome.code == code
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_a_narrow_terminal_loses_no_number(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = entangle("forecast", MODEL, LONG, "--limit", "4", "--verify")
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "…" not in outcome.out
