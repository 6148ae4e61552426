"""`entangle demo`: from nothing to a page, without a network."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import LONG, Entangle


def test_the_demo_writes_a_page_and_three_commands_that_work(
    entangle: Entangle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outcome = entangle("demo")
    assert outcome.code == 0, outcome.err
    assert Path("entangle-demo/long_ending.jsonl").read_bytes() == LONG.read_bytes()
    page = Path("entangle-demo/report.html").resolve()
    assert f"The page: {page}\n" in outcome.out
    assert "Review: " in page.read_text(encoding="utf-8")
    commands = [line.strip().partition("   ")[0] for line in outcome.out.partition("Next:\n")[2].splitlines()]
    assert len(commands) == 3
    for command in commands[:2]:
        assert entangle(*shlex.split(command)[1:]).code == 0
    # Again: nothing is measured twice.
    again = entangle("demo")
    assert again.code == 0
    assert "goes on after 100 pairs" in again.err


def test_a_folder_that_cannot_be_made_is_named(entangle: Entangle) -> None:
    Path("file").touch()
    outcome = entangle("demo", "file")
    assert outcome.code == 2
    assert "error: file: " in outcome.err
