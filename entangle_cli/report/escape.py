"""Text from a data set or checkpoint, made harmless for a medium."""

from __future__ import annotations

import re

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


COMMAND_WORDS = re.compile(
    r"::(?=(?:internal-set-repo-path|set-env|set-output|save-state|add-path|add-mask|add-matcher|remove-matcher|warning"
    r"|error|notice|debug|group|endgroup|echo|stop-commands)\b[^\n]*::)",
    re.IGNORECASE,
)
"""A command of GitHub's runner at the start of a line, whatever blanks stand before. A table that breaks its lines may
bring any word of a text there."""
COMMAND_SIGNS = re.compile(r"##(?=\[|vso\[)")
"""A command of Azure's or GitHub's runner, anywhere in a line."""


def for_terminal(text: str) -> str:
    """One line of printable characters; invisible ones and the start of a workflow command are shown as their codes."""
    return COMMAND_WORDS.sub(_first_as_code, for_cell(text))


def for_cell(text: str) -> str:
    """As `for_terminal`, for text that never starts a line. There, `std::error::Error` is harmless and stays."""
    shown = "".join(character if character.isprintable() else _code(character) for character in text)
    return COMMAND_SIGNS.sub(_first_as_code, shown)


def _first_as_code(found: re.Match[str]) -> str:
    return _code(found[0][0]) + found[0][1:]


def _code(character: str) -> str:
    return f"\\u{ord(character):04x}"


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
