"""`scan --until-decided`: the verdict of the full scan from fewer rows, without any stronger claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entangle_cli.analysis import sequential
from entangle_cli.analysis.sequential import decide
from entangle_cli.diagnose.scan import until_decided
from entangle_cli.diagnose.scan.measurer import Measurer
from tests.cli.conftest import LONG, MODEL, Entangle

RULE = ("--fail-if", "both_fall_rate > 0.01")
UNTIL = ("scan", MODEL, LONG, "-o", "run", "--until-decided")


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "FIRST_ROUND", 12)


def test_a_clear_rule_needs_few_rows(entangle: Entangle) -> None:
    outcome = entangle(*UNTIL, *RULE)
    assert outcome.code == 1, outcome.err
    said = " ".join(outcome.out.split())
    assert "gate failed: decided after 12 of 100 rows, confidence 0.95." in said
    assert "both_fall_rate > 0.01: of the whole data it is 0.04 to 1: FAILED" in said
    document = json.loads(entangle("report", "run", "--format", "json").out)
    assert len(document["pairs"]) == 12
    indices = [pair["index"] for pair in document["pairs"]]
    assert indices != list(range(12))
    assert document["status"] == "complete"


def test_the_same_command_reuses_the_decision(entangle: Entangle) -> None:
    assert entangle(*UNTIL, *RULE).code == 1
    again = entangle(*UNTIL, *RULE)
    assert again.code == 1
    assert "goes on after 12 pairs" in again.err
    assert entangle(*UNTIL, "--fail-if", "both_fall_rate > 0.02").code == 2  # another run
    other = entangle("scan", MODEL, LONG, "-o", "other", "--until-decided", *RULE, "--seed", "1")
    assert other.code == 1


def test_a_part_of_a_later_round_is_not_judged(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are measured longest pairs first, so an interrupted round is not a random sample."""
    words = (*UNTIL, "--fail-if", "both_fall_rate > 0.2", "--batch-tokens", "128", "--json", "run.json")
    assert entangle(*words[:4], "whole", *words[5:]).code == 1
    decided = len(json.loads(Path("run.json").read_text())["pairs"])
    assert decided > 18
    measure, num_measured = Measurer.start, 0

    def interrupted(self: Measurer, rows: Any) -> Any:
        nonlocal num_measured
        num_measured += len(rows)
        if num_measured > 15:
            raise KeyboardInterrupt
        return measure(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Measurer, "start", interrupted)
        assert entangle(*words).code == 130
    judged: list[int] = []
    monkeypatch.setattr(
        until_decided,
        "decide",
        lambda rules, columns, *others: (judged.append(len(columns["index"])), decide(rules, columns, *others))[1],
    )
    assert entangle(*words).code == 1
    assert judged[:2] == [12, 18]
    assert len(json.loads(Path("run.json").read_text())["pairs"]) == decided


def test_a_close_rule_needs_all_rows_and_matches_the_full_scan(entangle: Entangle) -> None:
    assert entangle("scan", MODEL, LONG, "-o", "full", "-q", "--json", "full.json").code == 0
    share = json.loads(Path("full.json").read_text())["summary"]["movements"]["both_fall"]["rate"]
    for rule, code in ((f"both_fall_rate > {share}", 0), (f"both_fall_rate >= {share}", 1)):
        outcome = entangle("scan", MODEL, LONG, "-o", rule, "--until-decided", "-q", "--fail-if", rule)
        assert outcome.code == code
        assert "decided after 100 of 100 rows" in " ".join(outcome.out.split())


def test_a_gate_does_not_judge_a_run_that_stopped_early(entangle: Entangle) -> None:
    assert entangle(*UNTIL, *RULE).code == 1
    outcome = entangle("gate", "run", *RULE)
    assert outcome.code == 5
    assert "until its own rules were decided" in outcome.err


def test_nothing_to_judge_does_not_pass(entangle: Entangle, rows_file: Callable[..., Path]) -> None:
    path = rows_file([{"prompt": "a", "chosen": "b", "rejected": "b"}] * 20)
    outcome = entangle("scan", MODEL, path, "-o", "none", "-q", "--until-decided", *RULE)
    assert outcome.code == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--until-decided without a rule"),
        (("--fail-if", "cosine_p95 > 0.5"), "--until-decided with --fail-if"),
        ((*RULE, "--confidence", "1"), "--confidence 1"),
        ((*RULE, "--ranked", "all"), "all rows, with one pair each"),
        ((*RULE, "--shard", "1/2"), "all rows, with one pair each"),
    ],
)
def test_invalid_options_of_until_decided_are_refused(entangle: Entangle, words: tuple[str, ...], message: str) -> None:
    outcome = entangle(*UNTIL, *words)
    assert outcome.code == 2
    assert message in outcome.err
