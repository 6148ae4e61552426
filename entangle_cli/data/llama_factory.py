"""LLaMA-Factory's `dataset_info.json`: the columns of the files that lie beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entangle_cli.data.formats import SHAREGPT_ROLES, Format, Row, alpaca_prompt, chat, sharegpt_message
from entangle_cli.errors import DataError

FILE = "dataset_info.json"
TAGS = {
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call", "tool call"),
    "system_tag": ("system", "system"),
}
"""LLaMA-Factory's names of roles: what they are called by default, and what the role is to a chat template."""


@dataclass(frozen=True, slots=True)
class Description:
    """What `dataset_info.json` says of a file."""

    format: Format
    entry: str
    """The entry itself, as JSON."""


def described_format(path: Path) -> Description | None:
    """The format of a file as `dataset_info.json` beside it describes it; None where it does not.

    Raises:
        DataError: the description cannot be read, or is of data that are no pairs.
    """
    beside = path.parent / FILE
    if not beside.is_file():
        return None
    try:
        entries = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{beside}: {error}", "LLaMA-Factory's description of data sets", "repair or remove it"
        ) from error
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if isinstance(entry, dict) and entry.get("file_name") == path.name:
            if not entry.get("ranking"):
                raise DataError(
                    f"{beside}: {name} has no ranking",
                    '"ranking": true, which marks preference pairs',
                    "add it if the rows have a chosen and a rejected answer",
                )
            return Description(_format(name, entry), json.dumps(entry, sort_keys=True))
    return None


def _format(name: str, entry: Mapping[str, Any]) -> Format:
    columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
    if entry.get("formatting", "alpaca") == "sharegpt":
        return Format(
            "sharegpt", f"LLaMA-Factory sharegpt, {name} of {FILE}", None, lambda row: _sharegpt(row, columns, tags)
        )
    return Format("alpaca", f"LLaMA-Factory alpaca, {name} of {FILE}", None, lambda row: _alpaca(row, columns))


def _alpaca(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    prompt = row[columns.get("prompt", "instruction")]
    query = row[columns["query"]] if "query" in columns else row.get("input")
    history, system = (row[columns[role]] if role in columns else None for role in ("history", "system"))
    answers = (row[columns.get(side, side)] for side in ("chosen", "rejected"))
    return chat(system, alpaca_prompt(prompt, query, history), *answers)


def _sharegpt(row: Row, columns: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, Any]:
    roles = {**SHAREGPT_ROLES, **{tags.get(tag, default): role for tag, (default, role) in TAGS.items()}}
    role_tag, content_tag = tags.get("role_tag", "from"), tags.get("content_tag", "value")

    def message(turn: Any) -> dict[str, Any]:
        return sharegpt_message(turn, roles, role_tag, content_tag)

    turns = [message(turn) for turn in row[columns.get("messages", "conversations")]]
    system = row[columns["system"]] if "system" in columns else None
    found = {
        "prompt": [{"role": "system", "content": system}, *turns] if system else turns,
        **{side: [message(row[columns.get(side, side)])] for side in ("chosen", "rejected")},
    }
    tools = row[columns["tools"]] if "tools" in columns else None
    return {**found, "tools": tools} if tools else found
