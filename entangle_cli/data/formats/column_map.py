"""`--map ROLE=COLUMN`: rows of no known format, read by what the user says of their columns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from entangle_cli.data.formats.conversations import turns_and_answers
from entangle_cli.data.formats.format import Format, NotAPair, Row
from entangle_cli.errors import UsageError

ROLES = ("prompt", "chosen", "rejected", "system", "tools", "chosen_score", "rejected_score", "preference_strength")
TITLE = "columns named by --map"


class NoSuchColumn(NotAPair):
    """A row lacks a mapped column."""


def mapped_format(columns: Mapping[str, str]) -> Format:
    """A format that reads the columns of a map.

    A column is a name or, where no column has that name, a path into objects and lists with dots, such as
    `input.messages` or `output.0`. Answers and prompt may be texts, messages or lists of turns; see
    `conversations.turns_and_answers`.

    Args:
        columns: role to column.
    Raises:
        UsageError: an unknown role, or no chosen or no rejected answer.
    """
    for role in columns:
        if role not in ROLES:
            near = difflib.get_close_matches(role, ROLES, n=1)
            raise UsageError(
                f"--map {role}={columns[role]}: no role {role!r}",
                f"one of {', '.join(ROLES)}",
                f"did you mean --map {near[0]}={columns[role]}?" if near else "name one of these roles",
            )
    if missing := {"chosen", "rejected"} - columns.keys():
        raise UsageError(
            f"--map names no column for {' and '.join(sorted(missing))}",
            "at least chosen=COLUMN and rejected=COLUMN",
            f"add {' '.join(f'--map {role}=COLUMN' for role in sorted(missing))}",
        )
    if columns["chosen"] == columns["rejected"]:
        raise UsageError(
            f"--map chosen={columns['chosen']} and rejected={columns['rejected']}", "two columns", "name the other one"
        )

    def rewrite(row: Row) -> dict[str, Any]:
        found = {role: value_at(row, column) for role, column in columns.items()}
        for side in ("chosen", "rejected"):
            if found[side] is None:
                raise NotAPair("null", f'"{columns[side]}" is null')
        pair = turns_and_answers(found.get("prompt"), found["chosen"], found["rejected"], found.get("system"))
        return {**{role: value for role, value in found.items() if role not in ("prompt", "system")}, **pair}

    return Format("map", TITLE, None, rewrite)


def value_at(row: Row, path: str) -> Any:
    """What a column holds, or what lies at a path into it.

    Raises:
        NoSuchColumn: nothing there.
    """
    if path in row:
        return row[path]
    found: Any = row
    for name in path.split("."):
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.lstrip("-").isdecimal() and -len(found) <= int(name) < len(found):
            found = found[int(name)]
        else:
            raise NoSuchColumn("malformed", f"no column {path!r}; columns: {', '.join(map(str, row)) or 'none'}")
    return found


def has_column(row: Row, path: str) -> bool:
    """Whether a row has something at a path, if only null."""
    try:
        value_at(row, path)
    except NoSuchColumn:
        return False
    return True


HINTS = {
    "prompt": ("prompt", "question", "instruction", "query", "input", "context", "problem"),
    "chosen": ("chosen", "good", "accept", "prefer", "better", "best", "win", "pos", "response_0", "response_a"),
    "rejected": ("reject", "bad", "dispref", "worse", "worst", "los", "neg", "response_1", "response_b"),
}
"""What names of columns for a role often hold."""


def suggested_map(columns: Iterable[str]) -> str:
    """Options of the command line that may read rows of these columns; text to fill in where nothing suggests any."""
    names = list(columns)
    taken: dict[str, str] = {}
    for role in ("rejected", "chosen", "prompt"):  # 'dispreferred' also holds 'prefer'
        for hint in HINTS[role]:
            near = [name for name in names if hint in name.lower() and name not in taken.values()]
            if near:
                taken[role] = near[0]
                break
    if not {"chosen", "rejected"} <= taken.keys():
        return "--map prompt=COLUMN --map chosen=COLUMN --map rejected=COLUMN"
    return " ".join(f"--map {role}={taken[role]}" for role in HINTS if role in taken)
