"""Terminal output: the summary sentence of a run, and layouts that fit the width."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from entangle_cli.diagnose.views.movements import describe_loss, run_summary, with_movements
from entangle_cli.diagnose.views.notices import run_notices
from entangle_cli.records.columns import rows_of
from entangle_cli.records.run import Run
from entangle_cli.records.settings import LossSettings
from entangle_cli.report.terminal import console_for, summary_report, verdict_sentence
from entangle_cli.store.reading import columns_of
from tests.cli.test_report_and_gate import PAIRS, SKIPPED

LOSS = LossSettings()


def summary_of(records: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    columns = with_movements(columns_of(records), LOSS, "float32")
    return columns, run_summary(columns, LOSS)


def test_the_verdict_says_what_happens_to_whom() -> None:
    assert verdict_sentence(summary_of(PAIRS)[1], describe_loss(LOSS)) == (
        "Verdict under sigmoid, beta 0.1, by pair-sgd (each pair alone, one small step): of 4 pairs 1 (25.0%) "
        "would lower the chosen answer's probability and 1 (25.0%) would raise the rejected answer's."
    )
    assert "none of 1 pairs pushes both" in verdict_sentence(summary_of(PAIRS[:1])[1], describe_loss(LOSS))
    assert "nothing can be said" in verdict_sentence(summary_of([SKIPPED])[1], describe_loss(LOSS))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_report_fits_the_width_and_loses_no_number(width: int) -> None:
    columns, summary = summary_of([*PAIRS, SKIPPED])
    manifest = {
        "status": "partial",
        "seconds": 2.0,
        "identity": {"model": {"name": "m"}, "data": {"name": "d"}, "settings": {"dtype": "float32"}},
        "environment": {"device": "cpu"},
        "tokenizer": {"eos_token": None},
        "plan": {"slow_parameters": {"odd.weight": "used by sigmoid, which no rule covers"}},
    }
    all_rows = list(rows_of(columns))
    report = summary_report(
        Run(Path("run"), manifest, columns, LOSS),
        summary,
        all_rows[:4],
        all_rows[4:],
        run_notices(manifest, columns),
        describe_loss(LOSS),
    )
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False, markup=False).print(report)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for word in ("PARTIAL", "both_fall", "25.0%", "W-NO-EOS", "W-SLOW", "odd.weight", "malformed 1", "+0.900"):
        assert word in text


def test_what_is_no_terminal_gets_plain_full_width_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    stream = io.StringIO()
    console = console_for(stream)
    console.print("x" * 85, style="bold red")
    assert stream.getvalue() == "x" * 85 + "\n"
    assert console.width == 90
