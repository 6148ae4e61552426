"""Notes beside the verdict: the same ones in the terminal and in Markdown."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest

from entangle_cli.records.overview import NextStep
from entangle_cli.records.run import Notice
from entangle_cli.report.markdown import write_report_markdown
from entangle_cli.report.notes import MORE, first_steps, notes
from entangle_cli.report.summary import Summary
from tests.report.test_terminal import PAIRS, printed, run_of

NOTICES = [
    Notice(f"W-{letter}", f"message {letter}", count) for letter, count in zip("ABCDEF", range(1, 7), strict=True)
]
OVERVIEW = replace(
    run_of(PAIRS).overview, uncertain=2, without_movement=1, not_measured={"malformed": 3}, notices=NOTICES
)


def test_the_terminal_and_markdown_say_the_same() -> None:
    stream = StringIO()
    write_report_markdown(stream, OVERVIEW, None)
    in_markdown = stream.getvalue().replace("\\", "")
    in_terminal = " ".join(printed(Summary(OVERVIEW)).split())
    for words in ("3 rows not measured: malformed 3", "1 pair without a movement", "2 pairs uncertain", "W-F"):
        assert words in in_markdown
        assert words in in_terminal


def test_what_is_left_out_is_named_by_its_code() -> None:
    assert list(notes(OVERVIEW, 4))[-2:] == ["message D (W-D, 4 rows)", f"2 more warnings: W-E, W-F{MORE}"]
    assert not any(MORE in note for note in notes(OVERVIEW))


@pytest.mark.parametrize(("count", "shown"), [(5, "abcd"), (4, "abcd"), (3, "abd"), (2, "ad")])
def test_the_forecast_is_always_among_the_steps(count: int, shown: str) -> None:
    steps = [NextStep(letter, "entangle") for letter in "abcd"]
    assert "".join(step.sentence for step in first_steps(steps, count)) == shown
