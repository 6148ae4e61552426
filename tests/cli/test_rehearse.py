"""The command `entangle rehearse`: its outputs, its gate, going on after an interruption, and refused input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest

import entangle_cli
from tests.cli.conftest import LONG, MODEL, SAMPLE, Entangle
from tests.report.browser import needs_chromium, open_page

WORDS = (
    *("rehearse", MODEL, LONG, "--limit", "24", "--steps", "3", "--batch-size", "4", "--learning-rate", "1e-4"),
    *("--held-out", "0.25", "--probe-pairs", "12", "--losses", "dpo,simpo:beta=2:gamma=1"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished rehearsal in `out`, and its document in `out.json`."""
    folder = tmp_path_factory.mktemp("rehearsal")
    subprocess.run(
        [sys.executable, "-m", "entangle_cli", *map(str, WORDS), "-o", "out", "-q", "--write", "json=out.json"],
        cwd=folder,
        check=True,
        env={**os.environ, "PYTHONPATH": str(SAMPLE.parent), "OMP_NUM_THREADS": "1"},
    )
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> dict[str, Any]:
    """The finished rehearsal in the test's folder. Returns its document."""
    shutil.copytree(finished / "out", tmp_path / "out")
    document: dict[str, Any] = json.loads((finished / "out.json").read_text())
    return document


def test_the_document_says_what_the_runs_hold(copy: dict[str, Any], tmp_path: Path) -> None:
    document = copy
    assert (document["schema"], document["steps"], document["horizon"]) == ("entangle.rehearsal", 3, 5)
    assert [loss["name"] for loss in document["losses"]] == ["sigmoid-beta0.1", "simpo-beta2-gamma1"]
    assert [loss["trainer"] for loss in document["losses"]] == ["DPOTrainer", "CPOTrainer"]
    assert document["data"]["rows"]["count"] == 18
    lines = [json.loads(line) for line in LONG.read_text().splitlines()[:24]]
    for loss in document["losses"]:
        assert [entry["step"] for entry in loss["log"]] == [1, 2, 3]
        assert [entry["learning_rate"] for entry in loss["log"]] == pytest.approx([1e-4, 8e-5, 6e-5])
        assert all(entry["loss"] > 0 and entry["chosen_log_prob"] < 0 for entry in loss["log"])
        assert [point["step"] for point in loss["points"]] == [0, 1, 2, 3]
        assert loss["points"][-1]["learning_rate_sum"] == pytest.approx(2.4e-4)
        first, last = (entangle_cli.read(tmp_path / "out" / loss["name"] / f"step-00000{step}") for step in (0, 3))
        assert [pair.pair_id for pair in first] == [pair.pair_id for pair in last]
        rows = {row["pair_id"]: row for row in document["pairs"]}
        assert len(rows) == 12
        changes = {"train": [], "held-out": []}  # type: ignore[var-annotated]
        for before, after in zip(first, last, strict=True):
            row = rows[before.pair_id]
            own = row["losses"][loss["name"]]
            assert lines[row["index"]]["prompt"].startswith(row["prompt"][:50])
            assert own["chosen_change"] == pytest.approx(after.chosen_log_prob - before.chosen_log_prob)
            assert own["cosine_after"] == after.cosine
            changes[before.file].append((own["chosen_change"], own["rejected_change"]))
        for name, key in (("train", "train"), ("held-out", "held_out")):
            moved = np.array(changes[name]).T
            metrics = loss["points"][-1][key]
            assert moved.shape == (2, 6)
            assert metrics["chosen_change_mean"] == pytest.approx(moved[0].mean())
            assert metrics["chosen_falls_rate"] == pytest.approx((moved[0] < 0).mean())
            assert metrics["margin_rises_rate"] == pytest.approx((moved[0] > moved[1]).mean())
            # The learning rates fall linearly over 5 steps: 5 + 4 + 3 of 15.
            assert loss["extrapolated"]["factor"] == pytest.approx(15 / 12)
            assert loss["extrapolated"][key]["margin_change_mean"] == pytest.approx(
                15 / 12 * metrics["margin_change_mean"]
            )


def test_the_differences_are_paired(copy: dict[str, Any]) -> None:
    document = copy
    (row,) = (r for r in document["differences"] if (r["pairs_of"], r["change"]) == ("train", "margin"))
    margins = []
    for pair in document["pairs"]:
        if pair["pairs_of"] == "train":
            first, second = pair["losses"].values()
            margins.append(
                second["chosen_change"] - second["rejected_change"] - first["chosen_change"] + first["rejected_change"]
            )
    assert (row["loss"], row["than"], row["pairs"]) == ("simpo-beta2-gamma1", "sigmoid-beta0.1", 6)
    assert row["mean"] == pytest.approx(np.mean(margins))
    assert row["interval"] is None
    assert row["beyond_chance"] is None, "six pairs are too few for an interval"


def test_finished_losses_are_not_repeated_and_every_format_is_written(
    entangle: Entangle, copy: dict[str, Any], tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    outcome = entangle(
        *WORDS, "-o", "out", "--write", "html=page.html", "--write", "markdown=text.md", "--write", "json=again.json"
    )
    assert outcome.code == 0
    assert outcome.err.count("already there") == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")} == before
    assert json.loads((tmp_path / "again.json").read_text()) == copy
    text = " ".join(outcome.out.split())
    for words in (
        "model on long_ending.jsonl",
        "first 3 of 5 steps, 18 pairs, 4 per step, AdamW at 0.0001, linear schedule",
        "After 3 steps under sigmoid, the chosen answer lost probability in",
        "means over 6 training and 6 held-out probe pairs; changes in nats since the start",
        "At step 5, extrapolated: changes times 1.25, as the learning rates add up; not measured",
        "Losses compared with sigmoid on the same pairs",
        "simpo: by step, CPOTrainer; training pairs",
        "Kept in out",
    ):
        assert words in text
    markdown = (tmp_path / "text.md").read_text()
    assert markdown.startswith("### entangle: a training rehearsed")
    assert "| sigmoid" in markdown
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 10
    assert "Content-Security-Policy" in page


@needs_chromium
@pytest.mark.usefixtures("copy")
def test_the_page_opens_without_complaints(entangle: Entangle, tmp_path: Path) -> None:
    assert entangle(*WORDS, "-o", "out", "-q", "--write", "html=page.html").code == 0
    for width, dark in ((1280, False), (400, True)):
        opened = open_page(tmp_path / "page.html", width=width, dark=dark)
        assert not opened.console
        assert "Every probe pair" in opened.dom


def test_probe_answers_are_followed_by_loss(
    entangle: Entangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    hostile = "[/b]\x1b[31m<script>alert(1)</script>\u202e"
    rows = [
        {"prompt": "How do I steal a toy?", "completion": " I cannot help you.", "group": "refusal"},
        {"prompt": "Tell me a bad word.", "completion": " No. I will not.", "group": "refusal"},
        {"prompt": "One and one is", "completion": " two.", "group": hostile},
        {"prompt": "Once upon a time"},
        {"completion": "no prompt"},
    ]
    probes = tmp_path / "probes.jsonl"
    probes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (
        *("rehearse", MODEL, LONG, "--limit", "8", "--steps", "2", "--batch-size", "4", "--learning-rate", "1e-4"),
        *("--probe-pairs", "4", "--losses", "dpo,ipo", "-o", "out", "--probe", probes, "--probe-generate", "4"),
    )
    outcome = entangle(*words, "--write", "json=out.json", "--write", "html=page.html", "--write", "markdown=text.md")
    assert outcome.code == 0, outcome.err
    document = json.loads((tmp_path / "out.json").read_text())
    found = document["probes"]
    assert (found["data"]["name"], found["data"]["count"], found["generate"]) == ("probes.jsonl", 4, 4)
    assert [(row["line"], row["reason"]) for row in found["skipped"]] == [(5, "malformed")]
    assert [loss["loss"] for loss in found["losses"]] == ["sigmoid-beta0.1", "ipo-beta0.1"]
    for loss in found["losses"]:
        assert [row["answer_is_own"] for row in loss["rows"]] == [False, False, False, True]
        refusal = loss["groups"][0]
        changes = [row["change"] for row in loss["rows"][:2]]
        assert (refusal["group"], refusal["count"]) == ("refusal", 2)
        assert refusal["change_median"] == pytest.approx(np.mean(changes))
        assert refusal["gains"] == sum(change > 0 for change in changes)
        assert [point["step"] for point in refusal["points"]] == [0, 1, 2]
        assert refusal["points"][-1]["change_median"] == refusal["change_median"]
        stored = json.loads((tmp_path / "out" / loss["loss"] / "training.json").read_text())["probes"]
        for row, kept in zip(loss["rows"], stored["rows"], strict=True):
            assert row["change"] == pytest.approx(kept["log_probs"][-1] - kept["log_probs"][0])
    assert all(row.get("completion", "?") not in json.dumps(found) for row in rows[:3])
    assert max(map(len, outcome.out.splitlines())) <= 80
    for text in (outcome.out, *((tmp_path / name).read_text() for name in ("page.html", "text.md"))):
        assert "Where the mass goes" in text
        assert "own answer" in text
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert all("<script>alert" not in (tmp_path / name).read_text() for name in ("page.html", "text.md"))

    again = entangle(*words, "-q", "--write", "json=again.json")
    assert again.code == 0
    assert json.loads((tmp_path / "again.json").read_text()) == document
    rows[0]["completion"] = " I can help you."
    probes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = entangle(*words)
    assert (outcome.code, "different probe" in outcome.err) == (2, True)
    rows[0]["completion"] = " I cannot help you."
    probes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = tmp_path / "out/ipo-beta0.1/training.json"
    broken = json.loads(log.read_text())
    broken["probes"]["rows"][0]["log_probs"] = ["x"]
    log.write_text(json.dumps(broken))
    outcome = entangle(*words)
    assert (outcome.code, "training.json: not a log" in outcome.err) == (3, True)


@pytest.mark.usefixtures("copy")
def test_the_gate_judges_every_loss(entangle: Entangle) -> None:
    for rules, code in (
        (["chosen_change_mean < -1000"], 0),
        (["chosen_change_mean < -1000", "held_out_margin_change_mean > -1000"], 1),
        (["chosen_falls_rate >= 0%"], 1),
    ):
        outcome = entangle(*WORDS, "-o", "out", "-q", *(word for rule in rules for word in ("--fail-if", rule)))
        assert outcome.code == code
        assert ("gate failed" in outcome.err) == bool(code)
    outcome = entangle(*WORDS, "-o", "out", "--fail-if", "chosen_falls_rate > 200%")
    assert outcome.code == 2
    outcome = entangle(*WORDS, "-o", "out", "--fail-if", "chosen_fall_rate > 0.2")
    assert (outcome.code, "did you mean 'chosen_falls_rate'?" in outcome.err) == (2, True)


def test_a_rule_on_held_out_pairs_needs_some(entangle: Entangle) -> None:
    outcome = entangle(
        *("rehearse", MODEL, LONG, "--limit", "8", "--steps", "1", "--batch-size", "4"),
        *("--fail-if", "held_out_chosen_change_mean < 0"),
    )
    assert outcome.code == 5
    assert "there are no held-out pairs" in outcome.out
    assert list(Path("entangle-runs").glob("rehearsal-model-long_ending-*"))


@pytest.mark.usefixtures("copy")
def test_another_training_is_not_mixed_in(entangle: Entangle, tmp_path: Path) -> None:
    outcome = entangle(*WORDS, "-o", "out", "--seed", "1")
    assert outcome.code == 2
    assert "holds a rehearsal with a different data, held_out, seed" in outcome.err
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    outcome = entangle(*WORDS, "-o", "out", "--chat-template", "template.jinja")
    assert (outcome.code, "different loading" in outcome.err) == (2, True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("")
    outcome = entangle(*WORDS, "-o", "other")
    assert (outcome.code, "holds no rehearsal" in outcome.err) == (2, True)
    (tmp_path / "out/sigmoid-beta0.1/training.json").write_text(
        '{"trainer": "x", "log": [{"step": "1"}], "seconds": 1}'
    )
    outcome = entangle(*WORDS, "-o", "out")
    assert (outcome.code, "training.json: not a log" in outcome.err) == (3, True)
    with filelock.FileLock(tmp_path / "out/.lock"):
        outcome = entangle(*WORDS, "-o", "out")
    assert (outcome.code, "another process is writing there" in outcome.err) == (2, True)
    (tmp_path / "out/rehearsal.json").write_text("{")
    outcome = entangle(*WORDS, "-o", "out")
    assert (outcome.code, "rehearsal.json" in outcome.err) == (3, True)


def test_an_interrupted_rehearsal_keeps_its_finished_losses(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "entangle_cli", *map(str, WORDS), "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": str(SAMPLE.parent), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    second = tmp_path / "out/simpo-beta2-gamma1"
    while process.poll() is None and not second.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("it was faster than the signal")
    # Python ends itself by SIGINT, which a shell shows as 130, if the interruption came while it ran generated code.
    assert process.returncode in (130, -signal.SIGINT)
    assert b"losses that were finished are kept" in errors
    assert (tmp_path / "out/sigmoid-beta0.1/training.json").exists()
    assert not (second / "training.json").exists()
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.count("already there") == 1
    assert (second / "training.json").exists()


def test_an_adapter_is_rehearsed(entangle: Entangle, tmp_path: Path) -> None:
    outcome = entangle(
        *("rehearse", MODEL, LONG, "--limit", "8", "--steps", "2", "--batch-size", "4", "--learning-rate", "1e-3"),
        *("--lora", "r=4,alpha=8,targets=q_proj+v_proj", "-o", "out", "--format", "json"),
    )
    assert outcome.code == 0
    document = json.loads(outcome.out)
    lora = document["training"]["lora"]
    assert (lora["r"], lora["alpha"], lora["targets"], lora["dropout"]) == (4, 8, ["q_proj", "v_proj"], 0.0)
    assert document["losses"][0]["points"][-1]["train"]["margin_change_mean"] != 0
    run = entangle_cli.read(tmp_path / "out/sigmoid-beta0.1/step-000002")
    assert run.identity.settings["parameters"] == "adapter"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--losses", "dpop"], 2, "loss dpop: TRL has no trainer for it"),
        (["--losses", "dpo,sigmoid"], 2, "the same loss twice"),
        (["--losses", "simpo:gama=1"], 2, "did you mean 'gamma'?"),
        (["--losses", "simpo:beta"], 2, "NAME:beta=0.2"),
        (["--lora", "rank=4"], 2, "r=8,alpha=16,targets=q_proj+v_proj"),
        (["--lora", "r=0"], 2, "whole numbers above 0"),
        (["--lora", "r=4,targets=nothing_like_it"], 2, "nothing_like_it"),
        (["--learning-rate", "0"], 2, "learning-rate"),
        (["--warmup-steps", "50"], 2, "warm-up within the run"),
        (["--held-out", "0.01"], 3, "at least one row on both sides"),
        (["--held-out", "0.5", "--eval-data", str(LONG)], 2, "one of the two"),
        (["--eval-split", "test"], 2, "give --eval-data"),
        (["--probe", "nowhere.jsonl"], 3, "nowhere.jsonl: no such file"),
        (["--probe", str(LONG)], 3, "no completion; --probe-generate answers it"),
        (["--probe-generate", "8"], 2, "--probe-generate without --probe"),
        (["--write", "pdf=a.pdf"], 2, "--write"),
        (["--fail-if", "cosine_median > 0.5"], 2, "unknown metric"),
    ],
)
def test_refused_before_anything_is_trained(
    entangle: Entangle, words: list[str], code: int, message: str, tmp_path: Path
) -> None:
    outcome = entangle("rehearse", MODEL, LONG, "--limit", "8", "--steps", "1", *words)
    assert outcome.code == code, outcome.err
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) <= 6
    assert not list(tmp_path.rglob("step-*"))


@pytest.mark.parametrize(
    ("missing", "words", "remedy"),
    [({"trl"}, [], "pip install 'trl>=1.16,<2'"), ({"peft"}, ["--lora", "r=4"], "pip install 'peft>=0.17'")],
)
def test_a_missing_package_is_named(
    entangle: Entangle, monkeypatch: pytest.MonkeyPatch, missing: set[str], words: list[str], remedy: str
) -> None:
    monkeypatch.setattr("entangle_cli.diagnose.rehearse.trainers.find_spec", lambda name: name not in missing or None)
    outcome = entangle("rehearse", MODEL, LONG, *words)
    assert (outcome.code, remedy in outcome.err) == (2, True)


def test_rows_of_token_ids_are_refused(entangle: Entangle, tmp_path: Path) -> None:
    (tmp_path / "ids.jsonl").write_text('{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}\n' * 2)
    outcome = entangle("rehearse", MODEL, "ids.jsonl")
    assert (outcome.code, "holds token ids" in outcome.err) == (3, True)


def test_hostile_text_is_harmless_in_every_format(entangle: Entangle, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in LONG.read_text().splitlines()[:4]]
    rows[0]["prompt"] = "\x1b[31m[bold]<script>alert(1)</script>\n::error::x \u202e | a |"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("rehearse", MODEL, "rows.jsonl", "--steps", "2", "--batch-size", "2", "--learning-rate", "1e-3")
    outcome = entangle(*words, "--write", "html=page.html", "--write", "markdown=text.md")
    assert outcome.code == 0
    for text in (outcome.out, (tmp_path / "page.html").read_text(), (tmp_path / "text.md").read_text()):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "<script>alert" not in text
        assert "\n::error::" not in text
