"""Terminal output: the summary and the details of a run, and layouts that fit the width."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from entangle_cli.api import Run
from entangle_cli.records.run import Run as StoredRun
from entangle_cli.records.settings import LossSettings
from entangle_cli.report.consoles import console_for, show
from entangle_cli.report.summary import Summary, shortened
from entangle_cli.store.reading import columns_of
from tests.cli.test_report_and_gate import PAIRS, SKIPPED

LOSS = LossSettings()


def run_of(records: list[Any], **settings: Any) -> Run:
    manifest = {
        "status": "partial" if settings.pop("partial", False) else "complete",
        "seconds": 2.0,
        "identity": {
            "model": {"name": "m"},
            "data": {"name": "d.jsonl", "rows": settings.pop("rows", len(records))},
            "settings": {"dtype": "float32", **settings},
        },
        "environment": {"device": "cpu"},
        "tokenizer": {"eos_token": None},
        "parts": [],
        "plan": {"slow_parameters": {"odd.weight": "used by sigmoid, which no rule covers"}},
    }
    stored = StoredRun(Path("run"), manifest, columns_of(records), LOSS)
    return Run(stored.folder, stored.manifest, stored.columns, stored.loss)


def printed(renderable: Any, width: int = 80, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=stream, width=width, highlight=False, markup=False).print(renderable, crop=False)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined, no-any-return]


def test_a_runs_name_costs_no_other_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("every loss was computed")

    monkeypatch.setattr("entangle_cli.diagnose.views.movements.losses_compared", never)
    assert "2 of 4 pairs" in repr(run_of(PAIRS))


def test_the_verdict_says_how_many_go_the_wrong_way() -> None:
    run = run_of(PAIRS)
    assert run.verdict == "2 of 4 pairs (50 %) go the wrong way, each on its own first step."
    assert run.overview.consequence == "1 would lower the chosen answer, 1 would raise the rejected one"
    assert run_of(PAIRS[:1]).verdict == "The only pair separates on its own first step."
    assert run_of([PAIRS[0], PAIRS[3]]).verdict == "All 2 pairs separate, each on its own first step."
    assert run_of([SKIPPED]).verdict == "No pair was measured."
    assert run_of(PAIRS[1:2]).verdict == "1 of 1 pair (100 %) goes the wrong way, each on its own first step."


def test_the_summary_of_eighty_columns() -> None:
    text = printed(run_of([*PAIRS, SKIPPED]).rendered())
    lines = text.splitlines()
    assert lines[0] == "m on d.jsonl    4 pairs of 5 rows, DPO"
    assert lines[2] == "  2 of 4 pairs (50 %) go the wrong way, each on its own first step."
    assert lines[4].startswith("  ● separates  2   50 %  █")
    assert lines[5].startswith("  ▼ both fall  1   25 %  █")
    assert lines[5].endswith("the chosen answer loses too")
    assert lines[6].endswith("the rejected answer gains too")
    assert [line[:6].strip() for line in lines[8:] if line[:6].strip()] == [
        "Why",
        "Worst",
        "Note",
        "Next",
        "Run",
        "Page",
    ]
    assert "1 row not measured: malformed 1 (entangle report --verbose says more)" in text
    assert "  entangle forecast MODEL DATA" in text


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("verbose", [False, True])
def test_only_commands_are_wider_than_the_terminal(width: int, verbose: bool) -> None:
    text = printed(run_of([*PAIRS, SKIPPED], partial=True).rendered(verbose=verbose), width)
    wide = [line for line in text.splitlines() if len(line.rstrip()) > width]
    # Tables are designed for 80 columns. In a narrower terminal they are not cut.
    assert all("entangle " in line or "TRL: " in line or (verbose and len(line) <= 80) for line in wide)
    for word in ("PARTIAL", "both fall", "25 %", "W-NO-EOS", "W-SLOW", "malformed 1"):
        assert word in text
    if verbose:
        assert "+0.900" in text
        assert "pair-sgd" in text


def test_a_terminal_without_unicode_gets_plain_marks() -> None:
    text = printed(run_of(PAIRS).rendered(), encoding="ascii")
    assert "  o separates  2   50 %  #" in text
    assert "  v both fall  1" in text
    assert "  ^ both rise  1" in text


def test_an_interval_only_where_rows_are_a_random_sample_of_more() -> None:
    assert run_of(PAIRS).overview.interval is None
    assert run_of(PAIRS, limit=4, rows=100).overview.interval is None
    assert run_of(PAIRS, sample=4, rows=4).overview.interval is None
    sampled = run_of(PAIRS, sample=4, rows=100)
    # Wilson, 2 of 4: symmetric around one half.
    low, high = sampled.overview.interval or (0.0, 0.0)
    assert (low, high) == (pytest.approx(0.150, abs=1e-3), pytest.approx(0.850, abs=1e-3))
    assert "95 % interval of the share: 15 % to 85 %" in " ".join(printed(sampled.rendered()).split())
    assert "95 % interval" in printed(sampled.rendered(verbose=True))
    assert "95 % interval" not in printed(run_of(PAIRS).rendered(verbose=True))
    assert sampled.overview.scope == "4 of 100 rows, drawn at random"
    assert run_of(PAIRS, limit=4, rows=100).overview.scope == "the first 4 of 100 rows"


def test_the_worst_pairs_show_what_the_prompt_asks() -> None:
    records = [replace(record, prompt_text="system: Be brief.\nuser: Why is the sky blue?") for record in PAIRS]
    text = printed(run_of(records).rendered())
    assert "tokens  Why is the sky blue?" in text
    assert "Be brief" not in text


def test_what_is_no_terminal_gets_plain_full_width_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    stream = io.StringIO()
    console = console_for(stream)
    console.print("x" * 85, style="bold red")
    assert stream.getvalue() == "x" * 85 + "\n"
    assert console.width == 90


def test_piped_text_has_no_trailing_blanks() -> None:
    stream = io.StringIO()
    show(stream, run_of([*PAIRS, SKIPPED]).rendered(verbose=True))
    assert not [line for line in stream.getvalue().splitlines() if line != line.rstrip()]


def test_no_style_is_yellow_or_carries_the_meaning_alone() -> None:
    from entangle_cli.report.marks import ASCII_MARKS, MARKS, STYLES, WORDS

    assert not any("yellow" in style for style in STYLES.values())
    for names in (MARKS, ASCII_MARKS, WORDS):
        assert len(set(names.values())) == len(STYLES)


@pytest.mark.parametrize(("text", "width", "shown"), [("abcdef", 6, "abcdef"), ("abcdef", 5, "ab..."), ("abc", 2, "")])
def test_cut_texts_end_with_three_dots(text: str, width: int, shown: str) -> None:
    assert shortened(text, width) == shown


def test_a_run_that_is_whole_says_nothing_of_more() -> None:
    assert "PARTIAL" not in printed(Summary(run_of(PAIRS).overview))
