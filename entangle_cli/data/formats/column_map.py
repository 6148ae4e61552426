"""`--map ROLE=COLUMN`: reads rows in an unknown format, using columns given by the user."""

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
    """A format that reads the mapped columns.

    A column is a name. If no column has that name, it is a dotted path into objects and lists, such as
    `input.messages` or `output.0`. Answers and prompt may be texts, messages or lists of turns; see
    `conversations.turns_and_answers`.

    Args:
        columns: role to column.
    Raises:
        UsageError: a role is unknown, chosen or rejected is missing, or both map to the same column.
    """
    for role in columns:
        if role not in ROLES:
            near = difflib.get_close_matches(role, ROLES, n=1)
            raise UsageError(
                f"--map {role}={columns[role]}: no role {role!r}",
                f"one of {', '.join(ROLES)}",
                f"did you mean --map {near[0]}={columns[role]}?" if near else "use one of these roles",
            )
    if missing := {"chosen", "rejected"} - columns.keys():
        raise UsageError(
            f"--map gives no column for {' and '.join(sorted(missing))}",
            "at least chosen=COLUMN and rejected=COLUMN",
            f"add {' '.join(f'--map {role}=COLUMN' for role in sorted(missing))}",
        )
    if columns["chosen"] == columns["rejected"]:
        raise UsageError(
            f"--map chosen={columns['chosen']} and rejected={columns['rejected']}",
            "two different columns",
            "change one of the two to the other answer's column",
        )

    def rewrite(row: Row) -> dict[str, Any]:
        values = {role: value_at(row, column) for role, column in columns.items()}
        for side in ("chosen", "rejected"):
            if values[side] is None:
                raise NotAPair("null", f'"{columns[side]}" is null')
        pair = turns_and_answers(values.get("prompt"), values["chosen"], values["rejected"], values.get("system"))
        return {**{role: value for role, value in values.items() if role not in ("prompt", "system")}, **pair}

    return Format("map", TITLE, None, rewrite)


def value_at(row: Row, path: str) -> Any:
    """The value of a column, or at a path into it.

    Raises:
        NoSuchColumn: the row has neither the column nor the path.
    """
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.lstrip("-").isdecimal() and -len(value) <= int(name) < len(value):
            value = value[int(name)]
        else:
            raise NoSuchColumn("malformed", f"no column {path!r}; columns: {', '.join(map(str, row)) or 'none'}")
    return value


def has_column(row: Row, path: str) -> bool:
    """Whether a row has a value at a path, which may be null."""
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
"""Common parts of column names, by role."""


def suggested_map(columns: Iterable[str]) -> str:
    """Suggest --map options for these columns, or a template to fill in if no column fits."""
    names = list(columns)
    mapped: dict[str, str] = {}
    for role in ("rejected", "chosen", "prompt"):  # 'dispreferred' also contains 'prefer'
        for hint in HINTS[role]:
            matching = [name for name in names if hint in name.lower() and name not in mapped.values()]
            if matching:
                mapped[role] = matching[0]
                break
    if not {"chosen", "rejected"} <= mapped.keys():
        return "--map prompt=COLUMN --map chosen=COLUMN --map rejected=COLUMN"
    return " ".join(f"--map {role}={mapped[role]}" for role in HINTS if role in mapped)
