"""What a run says can be done: the numbers are those of the commands that it names, and the commands work."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import entangle_cli
from entangle_cli.records.pair import Movement
from entangle_cli.records.words import percent
from tests.cli.conftest import LONG, MODEL, Entangle


@pytest.fixture
def run(entangle: Entangle) -> entangle_cli.Run:
    assert entangle("scan", MODEL, LONG, "--limit", "40", "-q", "-o", "run", "--include-text").code == 0
    return entangle_cli.read("run")


def separating(entangle: Entangle, command: str) -> float:
    """The share that separates in the report that a command writes."""
    document = json.loads(entangle(*shlex.split(command)[1:], "--format", "json").out)
    return float(document["summary"]["movements"]["separates"]["rate"])


def test_every_report_command_gives_the_share_that_its_sentence_says(run: entangle_cli.Run, entangle: Entangle) -> None:
    commands = [step for step in run.next_steps if step.command.startswith("entangle report")]
    assert commands
    for step in commands:
        assert percent(separating(entangle, step.command)) in step.sentence, step


def test_the_filter_command_leaves_what_it_says(run: entangle_cli.Run, entangle: Entangle) -> None:
    step = next(step for step in run.next_steps if step.command.startswith("entangle filter"))
    assert entangle(*shlex.split(step.command)[1:]).code == 0
    kept = sum(pair.movement == Movement.SEPARATES for pair in run)
    assert f"{kept:,} of 40 are left" in step.sentence
    assert len(Path("kept.jsonl").read_text().splitlines()) == kept


def test_the_forecast_comes_last_and_its_command_works(run: entangle_cli.Run, entangle: Entangle) -> None:
    command = run.next_steps[-1].command
    assert command == f"entangle forecast {MODEL} {LONG}"
    assert entangle(*shlex.split(command)[1:], "--limit", "2", "-q").code == 0


def test_answers_that_share_tokens_lead_to_the_tokens(run: entangle_cli.Run, entangle: Entangle) -> None:
    """The sample data's answers differ in few tokens."""
    assert any(reason.code in {"near_duplicates", "shared_prefix", "shared_tokens"} for reason in run.reasons)
    step = next(step for step in run.next_steps if step.command.startswith("entangle tokens"))
    assert f"--row {run.worst(1)[0].index}" in step.command
    assert entangle(*shlex.split(step.command)[1:], "-q").code == 0


def test_trl_settings_hold_the_values_of_the_commands(run: entangle_cli.Run) -> None:
    for step in run.next_steps:
        if step.setting:
            value = re.search(r"=(\d[\d.]*)$", step.command)
            assert value is not None
            assert value[1] in step.setting


def test_a_run_in_memory_gets_placeholders() -> None:
    rows = [json.loads(line) for line in LONG.read_text().splitlines()[:4]]
    run = entangle_cli.scan(MODEL, rows)
    assert all("in memory" not in step.command for step in run.next_steps)
    assert run.next_steps[-1].command.endswith(" DATA")


def test_a_length_of_its_own_is_in_the_commands(entangle: Entangle) -> None:
    entangle("scan", MODEL, LONG, "--limit", "2", "-q", "-o", "short", "--max-length", "40")
    assert entangle_cli.read("short").next_steps[-1].command.endswith(" --max-length 40")


def test_nothing_to_do_for_a_run_without_a_pair(entangle: Entangle) -> None:
    Path("same.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "b"}\n')
    entangle("scan", MODEL, "same.jsonl", "-q", "-o", "none")
    assert entangle_cli.read("none").next_steps == []
