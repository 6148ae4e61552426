"""`entangle inspect`: its report on a data set, with and without a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.cli.conftest import LONG, MODEL, Entangle

Write = Callable[[Sequence[Any]], Path]
PAIR = {"prompt": "The owl is", "chosen": " awake", "rejected": " asleep"}


def inspected(entangle: Entangle, path: Path, *words: str | Path) -> dict[str, Any]:
    outcome = entangle("inspect", path, "--json", "inspection.json", *words)
    assert outcome.code == 0, outcome.err
    return json.loads(Path("inspection.json").read_text())


def test_a_data_set_in_numbers(entangle: Entangle, rows_file: Write) -> None:
    rows = [PAIR, {**PAIR, "chosen": " asleep"}, "no json", {**PAIR, "rejected": " hungry and cold"}]
    document = inspected(entangle, rows_file(rows))
    assert document["data"]["rows"] == document["data"]["looked_at"] == 4
    assert (document["usable"], document["formats"]) == (2, {"TRL standard": 2})
    assert document["reasons"] == {"identical": 1, "malformed": 1}
    assert [row["line"] for row in document["skipped"]] == [2, 3]
    assert document["columns"] == {"prompt": 3, "chosen": 3, "rejected": 3}
    lengths = {"p05": 7.45, "p50": 11.5, "p95": 15.55, "max": 16.0}
    assert document["lengths"]["rejected, characters"] == pytest.approx(lengths)
    assert [pair["rejected"] for pair in document["pairs"]] == [" asleep", " hungry and cold"]


@pytest.mark.parametrize(
    ("rows", "code", "count"),
    [
        ([PAIR, PAIR, PAIR], "W-DUPLICATE", 2),
        ([PAIR, {**PAIR, "chosen": " asleep", "rejected": " awake"}], "W-CONTRADICTION", 1),
        ([{**PAIR, "prompt": ""}], "W-PROMPT-EMPTY", 1),
        ([{**PAIR, "system": "Be brief."}], "W-SYSTEM-UNUSED", 1),
        ([{"question": "2+2?", "chosen": "4", "rejected": "5"}], "W-QUESTION-UNUSED", 1),
        ([{side: f"\n\nHuman: a\n\nAssistant: {side}" for side in ("chosen", "rejected")}], "W-TRANSCRIPT", 1),
    ],
)
def test_traps_are_named(entangle: Entangle, rows_file: Write, rows: list[Any], code: str, count: int) -> None:
    path = rows_file(rows)
    notices = {notice["code"]: notice["count"] for notice in inspected(entangle, path)["notices"]}
    assert notices[code] == count
    assert f"{code} ({count})" in entangle("inspect", path).out


def test_a_clean_data_set_has_no_notice(entangle: Entangle) -> None:
    assert inspected(entangle, LONG)["notices"] == []


def test_scored_tokens_are_marked(entangle: Entangle, rows_file: Write) -> None:
    path = rows_file([PAIR])
    document = inspected(entangle, path, "--model", MODEL)
    tokens = document["pairs"][0]["chosen_tokens"]
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    prompt = tokenizer(PAIR["prompt"])["input_ids"]
    whole = tokenizer(PAIR["prompt"] + PAIR["chosen"] + tokenizer.eos_token)["input_ids"]
    assert tokens["not_scored"] == [tokenizer.decode([token]) for token in prompt]
    assert tokens["scored"] == [tokenizer.decode([token]) for token in whole[len(prompt) :]]
    assert document["lengths"]["chosen, tokens"]["max"] == len(tokens["scored"])
    assert "chosen scored" in entangle("inspect", path, "--model", MODEL).out


def test_truncation_is_reported_with_a_model(entangle: Entangle) -> None:
    document = inspected(entangle, LONG, "--model", MODEL, "--max-length", "40", "--limit", "5")
    assert "W-TRUNCATED" in {notice["code"] for notice in document["notices"]}


def test_hostile_text_stays_text(entangle: Entangle, rows_file: Write) -> None:
    hostile = {**PAIR, "prompt": "\x1b[31m[bold]::error\u202e", "\x1b]0;x": 1}
    outcome = entangle("inspect", rows_file([hostile]))
    assert "\x1b" not in outcome.out
    assert "\u202e" not in outcome.out
    assert "[bold]" in outcome.out


@pytest.mark.parametrize(("share", "code"), [("0", 5), ("0.24", 5), ("0.25", 0), ("1.1", 2)])
def test_rows_without_a_pair_fail_on_request(entangle: Entangle, rows_file: Write, share: str, code: int) -> None:
    rows = rows_file([PAIR, {**PAIR, "chosen": " alert"}, {"text": "a"}, {**PAIR, "chosen": " up"}])
    outcome = entangle("inspect", rows, "--max-skipped", share)
    assert outcome.code == code
    assert ("1 of 4 rows are no usable pair" in outcome.err) == (code == 5)


def test_what_cannot_be_inspected(entangle: Entangle, rows_file: Write) -> None:
    assert entangle("inspect", "nowhere.jsonl").code == 3
    assert entangle("inspect", LONG, "--model", "./nowhere").code == 3
    assert entangle("inspect", LONG, "--data-format", "orcaa").code == 2
    outcome = entangle("inspect", rows_file([{"text": "a"}]))
    assert outcome.code == 5
    assert "no column 'chosen' and no column 'rejected'; columns: text" in outcome.out


def test_output_fits_a_narrow_terminal(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert max(map(len, entangle("inspect", LONG).out.splitlines())) <= 70
