"""Words for people: numbers with their nouns, percentages, and what a prompt asks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import floor


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 row`, `1,200 rows`.

    Args:
        plural: of a noun that does not add an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def percent(part: float, decimals: int = 0) -> str:
    """A share as `45 %`. Only a share of 0 is `0 %` and only a share of 1 is `100 %`."""
    smallest = 10.0**-decimals
    value = 100.0 * part
    if 0.0 < value < smallest / 2:
        return f"<{smallest:g} %"
    if 0.0 < part < 1.0 and round(value, decimals) >= 100.0:
        value = floor(value / smallest) * smallest
    return f"{value:.{decimals}f} %"


USER_TURN = re.compile(r"(?:^|\n)(?:user|Human|USER): ")
"""The start of a user's turn: in messages as a run keeps them, and in transcripts."""


def last_turn(prompt: str) -> str:
    """What a user says last in a prompt: the last turn of a conversation or transcript, or the whole text."""
    turns = list(USER_TURN.finditer(prompt))
    return (prompt[turns[-1].end() :] if turns else prompt).strip()
