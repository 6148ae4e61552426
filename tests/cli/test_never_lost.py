"""Runs that are killed, locked, out of time, or reuse another run: no pair is lost or mixed up."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entangle_cli.cli.deadline import Deadline
from entangle_cli.engine.engine import Engine
from entangle_cli.errors import UnfinishedError, UsageError
from entangle_cli.store.files import locked
from entangle_cli.store.reading import read_manifest
from tests.cli.conftest import LONG, MODEL, Entangle

ROOT = MODEL.parents[1]
NUMBERS = ("cosine", "chosen_log_prob", "rejected_log_prob", "inner_product")
KILLED = 3

# Like `entangle`, but every record is a separate part.
SCAN = """
from entangle_cli.cli.app import main
from entangle_cli.store import writing
writing.PART_ROWS = 1
main()
"""


def pairs_of(path: str | Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(path).read_text())["pairs"]
    return found


def rows_in(folder: Path) -> int:
    """Rows listed in the manifest of a run. The manifest is complete or missing."""
    if not (folder / "manifest.json").exists():
        return 0
    return sum(part["rows"] for part in read_manifest(folder)["parts"])


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_numbers(entangle: Entangle, tmp_path: Path) -> None:
    words = ["scan", str(MODEL), str(LONG), "--limit", "60", "--batch-tokens", "128", "-q", "--layers"]
    assert entangle(*words, "-o", "whole", "--json", "whole.json").code == 0
    chance = random.Random(0)
    command = [sys.executable, "-c", SCAN, *words, "-o", "run", "--json", "run.json"]
    seen = 0
    for _ in range(KILLED):
        process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
        wanted = seen + chance.randint(0, 4)
        while process.poll() is None and rows_in(tmp_path / "run") < wanted:
            time.sleep(0.01)
        # At any point: between parts, within a part, or during loading.
        time.sleep(chance.uniform(0.0, 0.2))
        process.kill()
        process.wait()
        assert rows_in(tmp_path / "run") >= seen
        seen = rows_in(tmp_path / "run")
    assert entangle(*words, "-o", "run", "--json", "run.json").code == 0
    assert seen > 0
    for one, other in zip(pairs_of("run.json"), pairs_of("whole.json"), strict=True):
        assert one["pair_id"] == other["pair_id"]
        assert [one[name] for name in NUMBERS] == pytest.approx([other[name] for name in NUMBERS], rel=1e-4, abs=1e-5)
    assert not list((tmp_path / "run").rglob("*.tmp"))


# Prints the number of measured batches that are not in a part yet.
SLOW_SCAN = """
import time
from entangle_cli.cli.app import main
from entangle_cli.diagnose.scan.measurer import Measurer
measure = Measurer.start
def slowly(self, rows):
    found = measure(self, rows)
    with open("measured", "a") as file:
        file.write("x")
    time.sleep(0.1)
    return found
Measurer.start = slowly
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("first", "gap"), [("SIGTERM", 0.004), ("SIGINT", 0.02)])
def test_measured_pairs_are_kept_after_repeated_interrupts(tmp_path: Path, first: str, gap: float) -> None:
    command = [sys.executable, "-c", SLOW_SCAN, "scan", str(MODEL), str(LONG), "--batch-tokens", "128", "-o", "run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    )
    measured = tmp_path / "measured"
    while process.poll() is None and not (measured.exists() and len(measured.read_text()) >= 4):
        time.sleep(0.01)
    process.send_signal(getattr(signal, first))
    for _ in range(3):
        time.sleep(gap)
        process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert rows_in(tmp_path / "run") >= 3  # the fourth may not be written yet
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_run_that_is_being_written_is_refused(entangle: Entangle, tmp_path: Path) -> None:
    words = ("scan", MODEL, LONG, "--limit", "2", "-q", "-o", "run")
    assert entangle(*words).code == 0
    lock = locked(tmp_path / "run")
    outcome = entangle(*words)
    assert outcome.code == 2
    assert "another process is writing there" in outcome.err
    assert entangle("report", "run").code == 0
    lock.release()
    assert entangle(*words).code == 0


def test_a_deadline_ends_a_scan_that_goes_on_later(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("scan", MODEL, LONG, "--limit", "40", "--batch-tokens", "256", "-o", "run", "--json", "run.json")
    measure = Engine.start

    def slowly(self: Engine, *pairs: Any, **options: Any) -> Any:
        time.sleep(0.2)
        return measure(self, *pairs, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "start", slowly)
        outcome = entangle(*words, "--deadline", "0.3s")
    assert outcome.code == 4
    assert "--deadline 0.3s is reached with" in outcome.err
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert manifest["status"] == "partial"
    measured = sum(part["rows"] for part in manifest["parts"])
    assert 0 < measured < 40
    outcome = entangle(*words)
    assert outcome.code == 0
    assert f"goes on after {measured} pairs" in outcome.err
    assert len(pairs_of("run.json")) == 40


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("0.5m", 30)])
def test_durations(text: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    deadline = Deadline(text)
    now += seconds - 1
    deadline.check(3)
    now += 1
    with pytest.raises(UnfinishedError, match="with 3 pairs measured"):
        deadline.check(3)


@pytest.mark.parametrize("text", ["", "5", "m5", "5 m", "-5m", "0s", "5d", "1h30"])
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="a duration such as"):
        Deadline(text)


def test_known_pairs_are_reused_and_the_others_measured(
    entangle: Entangle, rows_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in LONG.read_text().splitlines()[:12]]
    assert entangle("scan", MODEL, LONG, "--limit", "8", "-q", "-o", "old").code == 0
    data = rows_file([rows[10], *rows[:8][::-1], rows[11], rows[3]])
    measured: list[int] = []
    measure = Engine.start

    def counted(self: Engine, pairs: Any, **options: Any) -> Any:
        measured.append(len(pairs))
        return measure(self, pairs, **options)

    assert entangle("scan", MODEL, data, "-q", "-o", "plain", "--json", "plain.json").code == 0
    monkeypatch.setattr(Engine, "start", counted)
    outcome = entangle("scan", MODEL, data, "-q", "--known", "old", "-o", "new", "--json", "new.json")
    assert outcome.code == 0, outcome.err
    assert sum(measured) == 2
    for one, other in zip(pairs_of("new.json"), pairs_of("plain.json"), strict=True):
        assert {name: one[name] for name in one if name not in NUMBERS and not isinstance(one[name], float)} == {
            name: other[name] for name in other if name not in NUMBERS and not isinstance(other[name], float)
        }
        assert [one[name] for name in NUMBERS] == pytest.approx([other[name] for name in NUMBERS], rel=1e-4, abs=1e-5)


def test_reference_log_probs_of_a_known_pair_are_those_of_its_row(
    entangle: Entangle, rows_file: Callable[..., Path]
) -> None:
    row = json.loads(LONG.read_text().splitlines()[0])
    old = rows_file([{**row, "ref_chosen_logps": -5.0, "ref_rejected_logps": -6.0}])
    assert entangle("scan", MODEL, old, "-q", "-o", "old").code == 0
    for brought, expected in (
        ({"ref_chosen_logps": -7.0, "ref_rejected_logps": -8.0}, (-7.0, -8.0)),
        ({}, (None, None)),
    ):
        new = rows_file([{**row, **brought}])
        assert entangle("scan", MODEL, new, "-q", "--known", "old", "-o", "new", "--json", "new.json").code == 0
        (pair,) = pairs_of("new.json")
        assert (pair["chosen_ref_log_prob"], pair["rejected_ref_log_prob"]) == expected
        shutil.rmtree("new")


def test_runs_with_other_settings_are_not_reused(entangle: Entangle) -> None:
    assert entangle("scan", MODEL, LONG, "--limit", "3", "-q", "-o", "old", "--max-length", "256").code == 0
    for words, message in (
        ((), "measured with a different max_length (256, now 512)"),
        (("--max-length", "256", "--dtype", "float64"), "measured with a different dtype (float32, now float64)"),
        (("--max-length", "256", "--layers"), "measured with a different layers (None, now True)"),
    ):
        outcome = entangle("scan", MODEL, LONG, "--known", "old", "-o", "new", *words)
        assert outcome.code == 2
        assert message in outcome.err
    assert entangle("scan", MODEL, LONG, "--known", "nowhere", "-o", "new").code == 3
