"""`--map ROLE=COLUMN`: rows of no known format, read by what the user says of their columns."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from entangle_cli.data.formats import Format, NotAPair, Row, chat
from entangle_cli.errors import UsageError

ROLES = ("prompt", "chosen", "rejected", "system", "tools", "chosen_score", "rejected_score", "preference_strength")
TITLE = "columns named by --map"


def mapped_format(columns: Mapping[str, str]) -> Format:
    """A format that reads the columns of a map.

    A column is a name or, where there is none of that name, a path into objects with dots, such as `input.messages`.

    Args:
        columns: role to column.
    Raises:
        UsageError: a role that there is not, or no chosen or no rejected answer.
    """
    for role in columns:
        if role not in ROLES:
            near = difflib.get_close_matches(role, ROLES, n=1)
            raise UsageError(
                f"--map {role}={columns[role]}: no role {role!r}",
                f"one of {', '.join(ROLES)}",
                f"did you mean {near[0]}?" if near else "name one of these roles",
            )
    if missing := {"chosen", "rejected"} - columns.keys():
        raise UsageError(
            f"--map names no column for {' and '.join(sorted(missing))}",
            "at least chosen=COLUMN and rejected=COLUMN",
            "add it; without a prompt the answers must start with it",
        )

    if "system" in columns and "prompt" not in columns:
        raise UsageError(
            f"--map system={columns['system']} without a prompt",
            "prompt=COLUMN beside it",
            "name the prompt's column too",
        )

    def rewrite(row: Row) -> dict[str, Any]:
        found = {role: _column(row, column) for role, column in columns.items()}
        if found.get("system") and isinstance(found.get("prompt"), str):
            return {**found, **chat(found["system"], found["prompt"], found["chosen"], found["rejected"])}
        if found.get("system") and isinstance(found.get("prompt"), list):
            found["prompt"] = [{"role": "system", "content": found["system"]}, *found["prompt"]]
        return found

    return Format("map", TITLE, None, rewrite)


def _column(row: Row, column: str) -> Any:
    if column in row:
        return row[column]
    found: Any = row
    for name in column.split("."):
        if not isinstance(found, Mapping) or name not in found:
            raise NotAPair("malformed", f"no column {column}; columns: {', '.join(map(str, row)) or 'none'}")
        found = found[name]
    return found
