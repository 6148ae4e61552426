"""LLaMA-Factory's `dataset_info.json`, which describes the columns of files in the same folder.

Rows are read as in LLaMA-Factory 0.9.5 (data/parser.py, data/converter.py, data/processor/pairwise.py). If a row makes
its converters fail, LLaMA-Factory rejects the whole data set. Here only that row is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entangle_cli.data.formats.conversations import Message, message_as, system_messages
from entangle_cli.data.formats.format import Format, NotAPair, Row
from entangle_cli.data.formats.questions import alpaca_prompt
from entangle_cli.errors import DataError

FILE = "dataset_info.json"
FORMATTINGS = ("alpaca", "sharegpt", "openai")

DEFAULT_COLUMNS = {"prompt": "instruction", "query": "input", "messages": "conversations"}
"""Used only if an entry has no `columns` at all. The answers have no default."""

DEFAULT_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
"""Used only if an entry has no `tags` at all, with any formatting."""

ROLES = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "tool call",
    "system_tag": "system",
}
"""LLaMA-Factory's role tags to roles of a chat template; see `conversations.message_as`."""

REASONING_OFF = "detailed thinking off"
"""Text that its openai converter adds to the system message of a conversation without tools."""


@dataclass(frozen=True, slots=True)
class Description:
    """The description of a file in `dataset_info.json`."""

    format: Format
    entry: str
    """The entry itself, as JSON."""


def described_format(path: Path) -> Description | None:
    """The format of a file from a `dataset_info.json`; None if no file describes it.

    `dataset_info.json` is in the file's folder, or one folder above if an entry names the folder or a path into it.

    Raises:
        DataError: the description cannot be read, contradicts itself, or describes data without pairs.
    """
    own = path.absolute()
    for folder in (own.parent, own.parent.parent):
        if (info := folder / FILE).is_file():
            entries = {
                name: entry
                for name, entry in _entries(info).items()
                if isinstance(entry, dict) and _names(entry.get("file_name"), folder, own)
            }
            if entries:
                return _description(info, entries)
    return None


def _entries(info: Path) -> Mapping[str, Any]:
    try:
        entries = json.loads(info.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{info}: {error}", "LLaMA-Factory's description of data sets", "fix the JSON, or remove the file"
        ) from error
    return entries if isinstance(entries, dict) else {}


def _names(file_name: Any, folder: Path, path: Path) -> bool:
    return isinstance(file_name, str) and bool(file_name) and folder / file_name in (path, path.parent)


def _description(info: Path, entries: Mapping[str, Mapping[str, Any]]) -> Description:
    ranking = {name: entry for name, entry in entries.items() if entry.get("ranking")}
    if not ranking:
        raise DataError(
            f"{info}: {next(iter(entries))} has no ranking",
            '"ranking": true, which marks preference pairs',
            'add "ranking": true if the rows have a chosen and a rejected answer',
        )
    name, entry = next(iter(ranking.items()))
    if any(_reading(other) != _reading(entry) for other in ranking.values()):
        raise DataError(
            f"{info}: {' and '.join(ranking)} describe the same file in different ways",
            "one description per file",
            "remove the wrong entry, or copy the file to a folder without dataset_info.json",
        )
    return Description(_format(info, name, entry), json.dumps(entry, sort_keys=True))


def _reading(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """The settings that determine how rows are read."""
    return tuple(entry.get(key) for key in ("formatting", "columns", "tags"))


def _format(info: Path, name: str, entry: Mapping[str, Any]) -> Format:
    formatting = entry.get("formatting", "alpaca")
    columns, tags = entry.get("columns", DEFAULT_COLUMNS), entry.get("tags", DEFAULT_TAGS)
    if formatting not in FORMATTINGS or not isinstance(columns, dict) or not isinstance(tags, dict):
        raise DataError(
            f"{info}: {name}: formatting {formatting!r}",
            f'"formatting" as one of {", ".join(FORMATTINGS)}, and objects as "columns" and "tags"',
            f"change these values in {info}",
        )
    if missing := [role for role in _needed(formatting) if not columns.get(role)]:
        raise DataError(
            f"{info}: {name}: columns has no {' and no '.join(missing)}, which LLaMA-Factory needs",
            f'"columns" with {", ".join(_needed(formatting))}',
            "add them to the entry's columns",
        )
    if formatting != "alpaca" and (missing := [tag for tag in ("role_tag", "content_tag") if not tags.get(tag)]):
        raise DataError(
            f"{info}: {name}: tags has no {' and no '.join(missing)}",
            "role_tag and content_tag, or no tags at all for LLaMA-Factory's defaults",
            "add them to the entry's tags",
        )
    title = f"LLaMA-Factory {formatting}, {name} of {FILE}"
    if formatting == "alpaca":
        return Format(formatting, title, None, lambda row: _alpaca(row, columns))
    return Format(formatting, title, None, lambda row: _Conversation(columns, tags, formatting == "openai").pair(row))


def _needed(formatting: str) -> tuple[str, ...]:
    return ("chosen", "rejected") if formatting == "alpaca" else ("messages", "chosen", "rejected")


def _column(row: Row, columns: Mapping[str, Any], role: str) -> Any:
    """The value of a role's column; None if the description gives no column for the role, or an empty name."""
    return row[columns[role]] if columns.get(role) else None


def _alpaca(row: Row, columns: Mapping[str, Any]) -> dict[str, Any]:
    _refuse_unpaired(row, columns)
    answers = [row[columns[side]] for side in ("chosen", "rejected")]
    if not all(isinstance(answer, str) for answer in answers):
        raise NotAPair(
            "malformed",
            "LLaMA-Factory drops alpaca rows whose answers are not texts; use --map chosen=COLUMN.KEY to read a key",
        )
    prompt = alpaca_prompt(*(_column(row, columns, role) for role in ("prompt", "query", "history")))
    system, tools = (_column(row, columns, role) for role in ("system", "tools"))
    chosen, rejected = ([{"role": "assistant", "content": answer}] for answer in answers)
    return _with_tools({"prompt": system_messages(system) + prompt, "chosen": chosen, "rejected": rejected}, tools)


def _refuse_unpaired(row: Row, columns: Mapping[str, Any]) -> None:
    if isinstance(_column(row, columns, "kto_tag"), bool):
        raise NotAPair("malformed", "unpaired data: the row has a kto_tag, which takes precedence over ranking")


def _with_tools(pair: dict[str, Any], tools: Any) -> dict[str, Any]:
    return {**pair, "tools": tools} if tools else pair


@dataclass(frozen=True, slots=True)
class _Conversation:
    """Reads the conversations of a description.

    Args:
        columns, tags: from the description.
        is_openai: whether messages are OpenAI's, with tool calls in a separate key.
    """

    columns: Mapping[str, Any]
    tags: Mapping[str, Any]
    is_openai: bool

    def pair(self, row: Row) -> dict[str, Any]:
        """Convert a row to TRL's shape.

        Raises:
            NotAPair: LLaMA-Factory drops the row.
        """
        _refuse_unpaired(row, self.columns)
        turns = [(self._role(turn), turn) for turn in row[self.columns["messages"]]]
        if turns and self.tags.get("system_tag") and turns[0][0] == self.tags["system_tag"]:
            system = turns.pop(0)[1][self.tags["content_tag"]]
        else:
            system = self._system(row)
        prompt = self._prompt(turns)
        chosen, rejected = (self._answer(row[self.columns[side]]) for side in ("chosen", "rejected"))
        pair = {"chosen": [chosen], "rejected": [rejected]}
        if self.is_openai:
            tools = row.get(self.columns.get("tools") or "")
            system = _openai_system(system, has_tools=isinstance(tools, list | dict) or bool(tools))
        else:
            tools = _column(row, self.columns, "tools")
        return _with_tools({"prompt": system_messages(system) + prompt, **pair}, tools)

    def _system(self, row: Row) -> Any:
        if self.is_openai:
            return row.get(self.columns.get("system") or "", "")
        return _column(row, self.columns, "system")

    def _role(self, turn: Any) -> str:
        role: str = turn[self.tags["role_tag"]]
        return role

    def _prompt(self, turns: list[tuple[str, Any]]) -> list[Message]:
        """The turns before the answers. User and assistant turns must alternate, and the last is the user's."""
        messages = self._openai_turns(turns) if self.is_openai else [self._message(*turn) for turn in turns]
        allowed_tags = (("user_tag", "observation_tag"), ("assistant_tag", "function_tag"))
        if any(tag not in allowed_tags[position % 2] for position, (tag, _) in enumerate(messages)):
            raise NotAPair("malformed", "LLaMA-Factory drops conversations whose turns do not alternate")
        if len(messages) % 2 == 0:
            raise NotAPair("malformed", "LLaMA-Factory drops conversations that do not end with the user's turn")
        return [message for _, message in messages]

    def _message(self, role: str, turn: Any) -> tuple[str, Message]:
        """A turn's tag and its message."""
        tag = next((tag for tag in ROLES if self.tags.get(tag) == role), None)
        if tag is None:
            raise NotAPair("malformed", f"a turn with role {role!r}, which is not in the description's tags")
        return tag, message_as(ROLES[tag], turn[self.tags["content_tag"]])

    def _openai_turns(self, turns: list[tuple[str, Any]]) -> list[tuple[str, Message]]:
        """OpenAI's turns, with tool calls from their separate key and adjacent tool results joined.

        Tool results at the end are dropped, as in LLaMA-Factory.
        """
        messages: list[tuple[str, Message]] = []
        results: list[str] = []
        for role, turn in turns:
            if role == self.tags.get("observation_tag"):
                results.append(turn[self.tags["content_tag"]])
                continue
            if results:
                joined = "\n</tool_response>\n<tool_response>\n".join(results)
                messages.append(("observation_tag", message_as("tool", joined)))
                results = []
            is_assistant = role in (self.tags.get("assistant_tag"), self.tags.get("function_tag"))
            if is_assistant and turn.get("tool_calls"):
                calls = [{"type": "function", "function": call["function"]} for call in turn["tool_calls"]]
                messages.append(("function_tag", {"role": "assistant", "tool_calls": calls}))
            else:
                messages.append(self._message(role, turn))
        return messages

    def _answer(self, answer: Any) -> Message:
        if not isinstance(answer, dict):
            raise NotAPair("malformed", "LLaMA-Factory drops conversations with an answer that is not an object")
        return self._message(self._role(answer), answer)[1]


def _openai_system(system: Any, *, has_tools: bool) -> Any:
    """The system message with the changes of LLaMA-Factory's openai converter, for models with a thinking switch."""
    if has_tools:
        return f"{system}\n" if system else system
    if not system:
        return REASONING_OFF
    named = "detailed thinking on" in system or REASONING_OFF in system
    return system if named else f"{system}\n{REASONING_OFF}"
