"""Converts conversations of any trainer to messages with role and content, and defines formats based on them."""

from __future__ import annotations

import json
from typing import Any

from entangle_cli.data.formats.format import NotAPair, Row, has

Message = dict[str, Any]

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "observations": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool": "tool",
    "function_call": "tool call",
    "tool_call": "tool call",
}
"""Role names in `from` to those of a chat template. `tool call` marks an assistant message."""


def user(content: Any) -> Message:
    """A user message."""
    return {"role": "user", "content": content}


def assistant(content: Any) -> Message:
    """An assistant message."""
    return {"role": "assistant", "content": content}


def system_messages(system: Any) -> list[Message]:
    """A list with the system message; empty if there is none."""
    return [{"role": "system", "content": system}] if system else []


def chat(system: Any, prompt: Any, chosen: Any, rejected: Any) -> dict[str, Any]:
    """A conversation from an optional system message, a user text or a list of turns, and two answer texts."""
    turns = prompt if isinstance(prompt, list) else [user(prompt)]
    return {
        "prompt": [*system_messages(system), *turns],
        "chosen": [assistant(chosen)],
        "rejected": [assistant(rejected)],
    }


def message(turn: Any) -> Message:
    """Convert a turn with `role` or `from` and `content` or `value` to a message.

    A turn with role and content stays unchanged, including its other keys.

    Raises:
        NotAPair: the value is not a turn, or its role is unknown.
    """
    if isinstance(turn, str):
        raise NotAPair(
            "malformed", "a list of texts where messages were expected; use --map with COLUMN.0 for one text"
        )
    if not isinstance(turn, dict) or not isinstance(turn.get("role", turn.get("from")), str):
        raise NotAPair("malformed", f"a turn without a role: {str(turn)[:40]}")
    if "role" in turn:
        whole: Message = turn
        return whole if "value" not in turn else {"role": turn["role"], "content": turn.get("content", turn["value"])}
    if turn["from"] not in SHAREGPT_ROLES:
        raise NotAPair("malformed", f"unknown role {turn['from']!r}; known roles: {', '.join(SHAREGPT_ROLES)}")
    return message_as(SHAREGPT_ROLES[turn["from"]], turn.get("value", turn.get("content")))


def message_as(role: str, content: Any) -> Message:
    """A message with a role from the values of `SHAREGPT_ROLES`.

    Raises:
        NotAPair: the content of a tool call is not JSON.
    """
    if role != "tool call":
        return {"role": role, "content": content}
    try:
        calls = json.loads(content)
    except (ValueError, TypeError, RecursionError) as error:
        raise NotAPair("malformed", f"a tool call that is not JSON: {error}") from error
    calls = calls if isinstance(calls, list) else [calls]
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": call} for call in calls]}


def messages(value: Any, role: str) -> list[Message]:
    """Convert a text, a turn or a list of turns to messages. A text becomes one message of `role`.

    Raises:
        NotAPair: the value is none of these.
    """
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        return [message(value)]
    if isinstance(value, list):
        return [message(turn) for turn in value]
    raise NotAPair("malformed", f"{_kind(value)} where a text, a message or a list of messages was expected")


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def turns_and_answers(prompt: Any, chosen: Any, rejected: Any, system: Any = None) -> dict[str, Any]:
    """A pair in TRL's shape, from parts that may be texts, messages or lists of turns.

    Three texts stay texts; otherwise all parts become messages. If both answers are whole conversations, TRL extracts
    the prompt from their common start. If only the chosen answer is one, the rejected answer replaces its last message.

    Raises:
        NotAPair: a part has another type, or there is no prompt.
    """
    parts = (prompt, chosen, rejected)
    if not system and all(isinstance(part, str) or part is None for part in parts):
        answers = {"chosen": chosen, "rejected": rejected}
        return answers if prompt is None else {"prompt": prompt, **answers}
    before = system_messages(system) + ([] if prompt is None else messages(prompt, "user"))
    sides = [messages(answer, "assistant") for answer in (chosen, rejected)]
    if prompt is None:
        return _whole_conversations(before, chosen, rejected, sides)
    if before and all(side[: len(before)] == before and len(side) > len(before) for side in sides):
        sides = [side[len(before) :] for side in sides]
    return {"prompt": before, "chosen": sides[0], "rejected": sides[1]}


def _whole_conversations(
    before: list[Message], chosen: Any, rejected: Any, sides: list[list[Message]]
) -> dict[str, Any]:
    if isinstance(chosen, list) and isinstance(rejected, list):
        return {"chosen": before + sides[0], "rejected": before + sides[1]}
    if isinstance(chosen, list) and len(sides[0]) > 1:
        return {"prompt": before + sides[0][:-1], "chosen": sides[0][-1:], "rejected": sides[1]}
    raise NotAPair("malformed", "answers without a prompt; give its column with --map prompt=COLUMN")


TURN_COLUMNS = ("conversations", "conversation", "messages", "trajectory")
"""Columns that hold the turns before two answers."""


def _turns(row: Row) -> Any:
    """The turns before the answers, from a separate column or else from `prompt`."""
    turns_before = next((row[name] for name in TURN_COLUMNS if isinstance(row.get(name), list)), None)
    return row.get("prompt") if turns_before is None else turns_before


def is_sharegpt(row: Row) -> bool:
    """Whether each answer is one turn, and the turns before it are in a separate column."""
    is_answer = all(isinstance(row.get(name), dict) for name in ("chosen", "rejected"))
    return is_answer and any(isinstance(row.get(name), list) for name in TURN_COLUMNS)


def sharegpt(row: Row) -> dict[str, Any]:
    """One turn per answer: LLaMA-Factory's sharegpt, Axolotl."""
    for side in ("chosen", "rejected"):
        if not isinstance(row[side], dict):
            raise NotAPair(
                "malformed",
                f'"{side}" is a {"string" if isinstance(row[side], str) else type(row[side]).__name__}, but sharegpt '
                "has one turn per answer, such as {from, value}; --data-format turns also reads texts",
            )
    return turns(row)


def is_turns(row: Row) -> bool:
    """Whether a row has turns and two answers in a shape that TRL cannot read."""
    answers = [row.get("chosen"), row.get("rejected")]
    if (
        any(not isinstance(answer, str | dict | list) for answer in answers)
        or is_sharegpt(row)
        or is_ultrafeedback(row)
    ):
        return False
    before = _turns(row)
    if isinstance(before, list) and before:
        return all(isinstance(turn, dict) for turn in before)
    if isinstance(before, str):
        return all(isinstance(answer, dict) for answer in answers)
    return before is None and all(_is_from_turns(answer) for answer in answers)


def _is_from_turns(answer: Any) -> bool:
    return isinstance(answer, list) and bool(answer) and all(isinstance(t, dict) and "from" in t for t in answer)


def turns(row: Row) -> dict[str, Any]:
    """Turns, and two answers as texts, messages or lists of messages: Axolotl, oumi, OpenRLHF, UltraInteract."""
    return turns_and_answers(_turns(row), row["chosen"], row["rejected"], row.get("system"))


def is_ultrafeedback(row: Row) -> bool:
    """Whether the prompt is a text and the answers are lists of messages."""
    answers = (row.get("chosen"), row.get("rejected"))
    return isinstance(row.get("prompt"), str) and all(isinstance(answer, list) and answer for answer in answers)


def ultrafeedback(row: Row) -> dict[str, Any]:
    """UltraFeedback: answers are whole conversations that repeat `prompt`, or only assistant messages."""
    if message(row["chosen"][0])["role"] == "assistant":
        return turns_and_answers(row["prompt"], row["chosen"], row["rejected"])
    return turns_and_answers(None, row["chosen"], row["rejected"])


def is_openai(row: Row) -> bool:
    """Whether a row has the columns of OpenAI's preference fine-tuning."""
    has_answers = has("preferred_output", "non_preferred_output")(row)
    return has_answers and isinstance(row.get("input"), dict) and isinstance(row["input"].get("messages"), list)


def openai(row: Row) -> dict[str, Any]:
    """OpenAI's preference fine-tuning."""
    pair = turns_and_answers(row["input"]["messages"], row["preferred_output"], row["non_preferred_output"])
    return {**pair, "tools": row["input"]["tools"]} if row["input"].get("tools") else pair


TORCHTUNE = ("chosen_conversations", "rejected_conversations")


def torchtune(row: Row) -> dict[str, Any]:
    """Two whole conversations."""
    return turns_and_answers(None, *(row[name] for name in TORCHTUNE))


SWIFT_QUERIES = ("query", "prompt", "input", "instruction", "question", "problem")
SWIFT_RESPONSES = ("response", "answer", "output", "solution")
"""Column names that ms-swift accepts as `query` and as `response`."""


def is_swift(row: Row) -> bool:
    """Whether a row has the columns of ms-swift: `messages` or a response, and a rejected counterpart."""
    if row.get("chosen") is not None or row.get("chosen_response") is not None:
        return False
    if isinstance(row.get("messages"), list):
        return row.get("rejected_messages") is not None or row.get("rejected_response") is not None
    return row.get("rejected_response") is not None and any(row.get(name) is not None for name in SWIFT_RESPONSES)


def swift(row: Row) -> dict[str, Any]:
    """ms-swift 4: the rejected response replaces everything after the last user turn."""
    if not isinstance(row.get("messages"), list):
        return _swift_response(row)
    chosen = [message(turn) for turn in row["messages"]]
    if not chosen or chosen[0]["role"] != "system":
        chosen = system_messages(row.get("system")) + chosen
    if (rejected := row.get("rejected_response")) is None:
        other = [message(turn) for turn in row["rejected_messages"]]
        own = chosen[:1] if chosen[0]["role"] == "system" and other[0]["role"] != "system" else []
        return {"chosen": chosen, "rejected": own + other}
    last_user = max((position for position, turn in enumerate(chosen) if turn["role"] == "user"), default=-1)
    if last_user < 0 or last_user + 1 == len(chosen):
        raise NotAPair("malformed", '"messages" hold no answer after a user turn')
    return {
        "prompt": chosen[: last_user + 1],
        "chosen": chosen[last_user + 1 :],
        "rejected": messages(rejected, "assistant"),
    }


def _swift_response(row: Row) -> dict[str, Any]:
    response = next(row[name] for name in SWIFT_RESPONSES if row.get(name) is not None)
    if row.get("instruction") is not None and row.get("input"):
        query: Any = f"{row['instruction']}\n{row['input']}"
    else:
        query = next((row[name] for name in SWIFT_QUERIES if row.get(name) is not None), None)
        if query is None:
            raise NotAPair("malformed", f"no query: none of the columns {', '.join(SWIFT_QUERIES)}")
    return chat(
        row.get("system"), [*earlier_turns(row.get("history")), user(query)], response, row["rejected_response"]
    )


def earlier_turns(history: Any) -> list[Message]:
    """Convert pairs of question and answer to messages; empty if the column is not a list."""
    pairs = history if isinstance(history, list) else []
    return [turn for asked, answered in pairs for turn in (user(asked), assistant(answered))]
