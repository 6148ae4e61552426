"""Text from a data set or checkpoint, made harmless for a medium."""

from __future__ import annotations

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def for_terminal(text: str) -> str:
    """One line of printable characters; control, bidirectional and other invisible ones are shown as their codes."""
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)


def for_spreadsheet(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return "'" + text if text.startswith(FORMULA_STARTS) else text


def for_markdown(text: str) -> str:
    """One line that Markdown shows as it is: no markup, no HTML, no table cell, no mention of anybody, no command."""
    shown = for_terminal(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_{}[]()#+!|~$":
        shown = shown.replace(character, "\\" + character)
    # A space of no width breaks @mentions, links and workflow commands, and changes nothing that is read.
    return shown.replace("@", "@\u200b").replace("://", ":\u200b//").replace("::", ":\u200b:")
