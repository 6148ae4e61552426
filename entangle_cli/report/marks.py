"""Movements on screen: a word, a mark and a style each. Files, rules and JSON keep the names of `Movement`."""

from __future__ import annotations

from collections.abc import Mapping

from entangle_cli.records.pair import Movement

WORDS: Mapping[str, str] = {
    Movement.SEPARATES: "separates",
    Movement.BOTH_FALL: "both fall",
    Movement.BOTH_RISE: "both rise",
    Movement.REVERSED: "reversed",
    Movement.STILL: "still",
}
MARKS: Mapping[str, str] = {
    Movement.SEPARATES: "●",
    Movement.BOTH_FALL: "▼",
    Movement.BOTH_RISE: "▲",
    Movement.REVERSED: "✕",
    Movement.STILL: "=",
}
ASCII_MARKS: Mapping[str, str] = {
    Movement.SEPARATES: "o",
    Movement.BOTH_FALL: "v",
    Movement.BOTH_RISE: "^",
    Movement.REVERSED: "x",
    Movement.STILL: "=",
}
HARMS: Mapping[str, str] = {
    Movement.BOTH_FALL: "the chosen answer loses too",
    Movement.BOTH_RISE: "the rejected answer gains too",
    Movement.REVERSED: "chosen down, rejected up",
    Movement.STILL: "neither moves",
}
# No yellow, which is unreadable on light terminals.
STYLES: Mapping[str, str] = {
    Movement.SEPARATES: "",
    Movement.BOTH_FALL: "blue",
    Movement.BOTH_RISE: "dark_orange3",
    Movement.REVERSED: "magenta",
    Movement.STILL: "dim",
}


def movement_words(movement: str | None) -> str:
    """`both fall` for `both_fall`; `undefined` for None."""
    return "undefined" if movement is None else WORDS[movement]
