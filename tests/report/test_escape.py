"""Hostile text in each medium."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.report.escape import for_cell, for_spreadsheet, for_terminal


@given(st.text())
def test_a_terminal_gets_nothing_that_moves_or_hides(text: str) -> None:
    shown = for_terminal(text)
    assert shown.isprintable()
    assert not set(shown) & {"\x1b", "\n", "\r", "\x00", "\u202e", "\u200f", "\u2066"}


@pytest.mark.parametrize(("text", "shown"), [("a\x1b[1m", "a\\u001b[1m"), ("\u202ex", "\\u202ex"), ("naïve", "naïve")])
def test_codes_are_shown_and_letters_kept(text: str, shown: str) -> None:
    assert for_terminal(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::error::x", "\\u003a:error::x"),
        ("a ::warning file=b,line=1::c", "a \\u003a:warning file=b,line=1::c"),
        ("::Stop-Commands::x::y", "\\u003a:Stop-Commands::x::y"),
        ("##[add-mask]x ##vso[task.setvariable]y", "\\u0023#[add-mask]x \\u0023#vso[task.setvariable]y"),
        ("std::string::npos, ::1, a::b", "std::string::npos, ::1, a::b"),
        ("## [title]", "## [title]"),
    ],
)
def test_no_words_of_a_text_are_a_command_wherever_a_line_breaks(text: str, shown: str) -> None:
    assert for_terminal(text) == shown


def test_a_cell_keeps_what_is_a_command_at_the_start_of_a_line_alone() -> None:
    assert for_cell("use std::error::Error; ##[error]x") == "use std::error::Error; \\u0023#[error]x"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_spreadsheet_sees_no_formula(start: str) -> None:
    assert for_spreadsheet(start + "1") == "'" + start + "1"
    assert for_spreadsheet("1" + start) == "1" + start
