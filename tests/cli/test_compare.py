"""`entangle compare`: runs of the same pairs, in every output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import LONG, MODEL, Entangle
from tests.report.browser import needs_chromium, open_page
from tests.report.test_html import HOSTILE, Tags, hostile_rows


def moved_copy(folder: Path, size: float) -> Path:
    """The sample checkpoint with slightly perturbed weights."""
    shutil.copytree(MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(0)
    moved = {name: weight + size * torch.randn_like(weight) for name, weight in weights.items()}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def runs(entangle: Entangle, tmp_path: Path) -> list[str]:
    moved_copy(tmp_path / "out/checkpoint-5", 0.01)
    moved_copy(tmp_path / "out/checkpoint-20", 0.02)
    for model, limit, run in (
        (MODEL, 14, "one"),
        ("out/checkpoint-5", 16, "five"),
        ("out/checkpoint-20", 16, "twenty"),
    ):
        assert entangle("scan", model, LONG, "--limit", str(limit), "-q", "-o", run).code == 0
    return ["one", "five", "twenty"]


def compared(entangle: Entangle, *words: str) -> dict[str, Any]:
    outcome = entangle("compare", *words, "--format", "json")
    assert outcome.code == 0, outcome.err
    document: dict[str, Any] = json.loads(outcome.out)
    return document


@pytest.mark.usefixtures("runs")
def test_two_runs_pair_by_pair(entangle: Entangle) -> None:
    document = compared(entangle, "one", "five")
    assert (document["schema"], document["schema_version"]) == ("entangle.comparison", "1.0")
    whole = document["whole"]
    assert (whole["matched"], whole["only_first"], whole["only_second"]) == (14, 0, 2)
    pairs = [json.loads(entangle("report", run, "--format", "json").out)["pairs"] for run in ("one", "five")]
    differences = sorted(new["cosine"] - old["cosine"] for old, new in zip(*pairs, strict=False))
    assert whole["fields"]["cosine"]["mean_difference"] == pytest.approx(sum(differences) / 14)
    assert whole["fields"]["cosine"]["median_difference"] == pytest.approx(sum(differences[6:8]) / 2)
    moved = sum(old["movement"] != new["movement"] for old, new in zip(*pairs, strict=False))
    stayed = sum(whole["transitions"][name][name] for name in whole["transitions"])
    assert stayed == 14 - moved


@pytest.mark.usefixtures("runs")
def test_a_training_is_read_in_its_order(entangle: Entangle, tmp_path: Path) -> None:
    moved_copy(tmp_path / "out/checkpoint-7", 0.015)
    assert entangle("scan", "out/checkpoint-7", LONG, "--limit", "16", "-q", "-o", "seven").code == 0
    document = compared(entangle, "twenty", "five", "seven")
    assert [run["training_step"] for run in document["runs"]] == [5, 7, 20]
    assert len(document["steps"]) == 2


@pytest.mark.usefixtures("runs")
def test_one_run_under_two_losses_needs_no_second_scan(entangle: Entangle) -> None:
    document = compared(entangle, "one", "one", "--loss", "simpo", "--beta", "2")
    assert {run["loss"]["name"] for run in document["runs"]} == {"simpo"}
    assert all(change["difference"] == 0 for change in document["whole"]["movements"].values())


@pytest.mark.parametrize("output", ["terminal", "markdown", "html"])
def test_every_output_has_the_verdict(entangle: Entangle, runs: list[str], output: str) -> None:
    outcome = entangle("compare", *runs, "--format", output)
    assert outcome.code == 0, outcome.err
    assert "14 pairs in common, each on its own first step: 64 % separate, up from 21 %" in " ".join(
        outcome.out.split()
    )


@pytest.mark.usefixtures("runs")
def test_eighty_columns_are_enough(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = entangle("compare", "five", "twenty").out
    assert max(map(len, out.splitlines())) <= 80
    for word in ("rejected_log_prob", "median change", "95 % interval", "as predicted"):
        assert word in out


@pytest.mark.usefixtures("runs")
def test_runs_that_cannot_be_compared(entangle: Entangle, rows_file: Callable[..., Path]) -> None:
    assert entangle("compare", "one").code == 2
    assert entangle("compare", "one", "nowhere").code == 3
    other = rows_file([{"prompt": "The owl is", "chosen": " awake.", "rejected": " asleep."}])
    assert entangle("scan", MODEL, other, "-q", "-o", "other").code == 0
    outcome = entangle("compare", "one", "other")
    assert outcome.code == 5
    assert "no measured pair in common" in outcome.err


@needs_chromium
def test_pages_of_hostile_runs(entangle: Entangle, rows_file: Callable[..., Path], tmp_path: Path) -> None:
    hostile = shutil.copytree(MODEL, tmp_path / "m<img src=x onerror=alert(1)>")
    path = rows_file(hostile_rows())
    assert entangle("scan", hostile, path, "-q", "-o", "run").code == 0
    pages = {
        "compare": entangle("compare", "run", "run", "--format", "html"),
        "tokens": entangle("tokens", hostile, path, "--row", "0", "--format", "html"),
        "report": entangle("report", "run", "--format", "html"),
    }
    for name, outcome in pages.items():
        assert outcome.code == 0, outcome.err
        assert not any(tag in ("img", "iframe") for tag, _ in Tags(outcome.out).found)
        (tmp_path / f"{name}.html").write_text(outcome.out)
        assert open_page(tmp_path / f"{name}.html").console == []
    assert HOSTILE.split("\\n")[0] not in pages["tokens"].out


def test_different_settings_are_reported(entangle: Entangle) -> None:
    for run, words in (("one", ()), ("short", ("--max-length", "40")), ("double", ("--dtype", "float64"))):
        assert entangle("scan", MODEL, LONG, "--limit", "12", "-q", "-o", run, *words).code == 0
    document = compared(entangle, "one", "short")
    assert document["differences"] == ["max_length"]
    assert document["whole"]["log_probs"] == {}
    for output in ("terminal", "markdown", "html"):
        said = " ".join(entangle("compare", "one", "short", "--format", output).out.split())
        assert "The runs were measured with other max_length" in said
        assert "log-probs cannot be compared" in said
    other = compared(entangle, "one", "double")
    assert other["differences"] == ["dtype"]
    assert other["whole"]["log_probs"]
    assert compared(entangle, "one", "one")["differences"] == []
