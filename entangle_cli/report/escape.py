"""Text from a data set or checkpoint, made harmless for a medium."""

from __future__ import annotations

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def for_terminal(text: str) -> str:
    """One line of printable characters; control, bidirectional and other invisible ones are shown as their codes."""
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)


def for_spreadsheet(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return "'" + text if text.startswith(FORMULA_STARTS) else text
