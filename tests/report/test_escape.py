"""Hostile text in each medium."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.report.escape import for_spreadsheet, for_terminal


@given(st.text())
def test_a_terminal_gets_nothing_that_moves_or_hides(text: str) -> None:
    shown = for_terminal(text)
    assert shown.isprintable()
    assert not set(shown) & {"\x1b", "\n", "\r", "\x00", "\u202e", "\u200f", "\u2066"}


@pytest.mark.parametrize(("text", "shown"), [("a\x1b[1m", "a\\u001b[1m"), ("\u202ex", "\\u202ex"), ("naïve", "naïve")])
def test_codes_are_shown_and_letters_kept(text: str, shown: str) -> None:
    assert for_terminal(text) == shown


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_spreadsheet_sees_no_formula(start: str) -> None:
    assert for_spreadsheet(start + "1") == "'" + start + "1"
    assert for_spreadsheet("1" + start) == "1" + start
