"""Command lines in a temporary folder, on the project's small trained model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from entangle_cli.cli.app import run

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"
MODEL = SAMPLE / "model"
LONG = SAMPLE / "long_ending.jsonl"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Entangle = Callable[..., Outcome]


@pytest.fixture
def entangle(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Entangle:
    """Run a command line inside the test's folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str | Path) -> Outcome:
        capfd.readouterr()
        code = run([str(word) for word in words])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def rows_file(tmp_path: Path) -> Callable[[Sequence[Any]], Path]:
    """Write rows as JSON lines; a string is written as it is."""

    def write(rows: Sequence[Any]) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write
