"""`entangle show`: one pair, by row or line, with its text from the run or from the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import entangle_cli
from tests.cli.conftest import LONG, MODEL, Entangle

ROWS = [json.loads(line) for line in LONG.read_text().splitlines()]


@pytest.fixture
def run(entangle: Entangle) -> str:
    assert entangle("scan", MODEL, LONG, "--limit", "6", "-q", "-o", "run").code == 0
    return "run"


def test_a_pair_by_row_and_by_line(run: str, entangle: Entangle) -> None:
    by_row, by_line = entangle("show", run, "--row", "3"), entangle("show", run, "--line", "4")
    assert by_row.code == 0, by_row.err
    assert by_row.out == by_line.out
    pair = entangle_cli.read(run).pair(3)
    assert by_row.out.startswith("line 4 (row 3)")
    assert f"{pair.cosine:.2f}" in by_row.out
    assert "No text in this run: give --data DATA" in by_row.out
    assert f"entangle tokens {MODEL} {LONG} --row 3" in by_row.out


def test_a_row_that_was_skipped_has_its_reason_and_no_command_that_fails(
    entangle: Entangle, rows_file: Callable[..., Path]
) -> None:
    entangle("scan", MODEL, rows_file([*ROWS[:2], {"chosen": "a"}]), "-q", "-o", "skips")
    shown = entangle("show", "skips", "--row", "2")
    assert shown.code == 0, shown.err
    assert "skipped" in shown.out
    assert "entangle tokens" not in shown.out
    assert "--data DATA" not in shown.out


def test_the_text_comes_from_the_data_or_from_the_run(run: str, entangle: Entangle) -> None:
    assert entangle("scan", MODEL, LONG, "--limit", "6", "-q", "-o", "texts", "--include-text").code == 0
    from_data = json.loads(entangle("show", run, "--row", "2", "--data", LONG, "--format", "json").out)
    from_run = json.loads(entangle("show", "texts", "--row", "2", "--format", "json").out)
    assert from_data["text"] == from_run["text"]
    for side in ("chosen", "rejected"):
        assert "".join(piece["text"] for piece in from_data["text"][side]) == ROWS[2][side]
    assert from_data["text"]["prompt"] == ROWS[2]["prompt"]
    shown = " ".join(entangle("show", run, "--row", "2", "--data", LONG).out.split())
    assert "Chosen " in shown
    assert ROWS[2]["prompt"].split()[0] in shown


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "show without a row"),
        (("--row", "1", "--line", "2"), 2, "--row 1 and --line 2"),
        (("--row", "9"), 2, "--row 9: run has no such row"),
        (("--line", "99"), 2, "expected: 1 to 6"),
        (("--row", "1", "--pair-in-row", "3"), 2, "the row has no such pair"),
        (("--row", "1", "--data", "other.jsonl"), 2, "is not the data of run"),
    ],
)
def test_what_cannot_be_shown(run: str, entangle: Entangle, words: tuple[str, ...], code: int, message: str) -> None:
    Path("other.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    outcome = entangle("show", run, *words)
    assert (outcome.code, message in outcome.err) == (code, True), outcome.err


def test_a_row_that_was_not_measured_says_why(entangle: Entangle) -> None:
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{**ROWS[0], "chosen": None}, ROWS[1]]))
    entangle("scan", MODEL, "a.jsonl", "-q", "-o", "run")
    out = entangle("show", "run", "--row", "0").out
    assert "skipped: null" in out


def test_columns_fold_in_a_narrow_terminal(run: str, entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = entangle("show", run, "--row", "2", "--data", LONG).out.splitlines()
    assert all(len(line) <= 60 for line in lines if "entangle " not in line)
