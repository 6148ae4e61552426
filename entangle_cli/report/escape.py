"""Text from a data set or checkpoint, made harmless for a medium."""

from __future__ import annotations

import re

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


WORKFLOW_COMMAND = re.compile(
    r"::(?=(?:internal-set-repo-path|set-env|set-output|save-state|add-path|add-mask|add-matcher|remove-matcher|warning"
    r"|error|notice|debug|group|endgroup|echo|stop-commands)\b[^\n]*::)|##(?=\[|vso\[)",
    re.IGNORECASE,
)
"""What the runners of GitHub and Azure take for a command: `::` at the start of a line, whatever blanks stand before,
and `##` anywhere. A table that breaks its lines may bring any word of a text to the start."""


def for_terminal(text: str) -> str:
    """One line of printable characters; invisible ones and the start of a workflow command are shown as their codes."""
    shown = "".join(character if character.isprintable() else _code(character) for character in text)
    return WORKFLOW_COMMAND.sub(lambda found: _code(found[0][0]) + found[0][1:], shown)


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
