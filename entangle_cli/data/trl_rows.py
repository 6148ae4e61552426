"""Rows in the shapes accepted by TRL's DPOTrainer, read with its rules. Unusable rows get a reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

Messages = list[dict[str, Any]]
Text = str | Messages


class PairFormat(StrEnum):
    """The shapes that TRL accepts. See `formats` for rewritten ones."""

    STANDARD = "TRL standard"
    STANDARD_IMPLICIT = "TRL standard, prompt implicit"
    TRANSCRIPT = "hh-rlhf transcript, read as TRL reads it"
    CONVERSATIONAL = "TRL conversational"
    CONVERSATIONAL_IMPLICIT = "TRL conversational, prompt implicit"


class Unusable(Exception):
    """A row holds no usable pair.

    Args:
        reason: reason code of the run document.
        detail: the values found.
        holds_pair: whether the row still has both answers.
    """

    def __init__(self, reason: str, detail: str, holds_pair: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.holds_pair = holds_pair


def template_arguments(value: Mapping[str, Any]) -> tuple[list[Any] | None, dict[str, Any]]:
    """Tools and other arguments for the chat template.

    Raises:
        Unusable: a column has the wrong type, or invalid JSON.
    """
    tools = _parsed("tools", value.get("tools"))
    kwargs = _parsed("chat_template_kwargs", value.get("chat_template_kwargs"))
    if not isinstance(tools, list | None):
        raise Unusable("malformed", f'"tools" is a {kind(tools)}', holds_pair=True)
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(kwargs, dict):
        raise Unusable("malformed", f'"chat_template_kwargs" is a {kind(kwargs)}', holds_pair=True)
    return tools, kwargs


REF_COLUMNS = (("ref_chosen_logps", "ref_rejected_logps"), ("reference_chosen_logps", "reference_rejected_logps"))
"""Columns of precomputed reference log-probs from TRL's DPOTrainer, now and before version 0.12."""


def ref_log_probs(value: dict[str, Any]) -> tuple[float, float] | None:
    """Reference log-probs of chosen and rejected from a row, nats; None if it has none.

    NaN counts as null, because pandas has no other null in a numeric column.

    Raises:
        Unusable: a log-prob is not a finite number.
    """
    for names in REF_COLUMNS:
        log_probs = [None if _is_nothing(value.get(name)) else value[name] for name in names]
        if log_probs == [None, None]:
            continue
        try:
            chosen, rejected = (float(str(number)) for number in log_probs)
        except ValueError as error:
            raise Unusable(
                "malformed", f'"{names[0]}" and "{names[1]}" are not both numbers', holds_pair=True
            ) from error
        if not (math.isfinite(chosen) and math.isfinite(rejected)):
            raise Unusable("malformed", f'"{names[0]}" or "{names[1]}" is not finite', holds_pair=True)
        return chosen, rejected
    return None


def _is_nothing(number: Any) -> bool:
    return number is None or number == "" or str(number).lower() == "nan"


def refuse_other_tasks(value: dict[str, Any]) -> None:
    """Refuse rows of other tasks, with a specific reason.

    Raises:
        Unusable: the row has images, video or audio, or lacks an answer.
    """
    for name in ("image", "images", "videos", "audios"):
        if value.get(name):
            raise Unusable("malformed", f'"{name}": vision and audio pairs cannot be measured')
    missing = [name for name in ("chosen", "rejected") if name not in value]
    if not missing:
        return
    if "completion" in value and "label" in value:
        raise Unusable("malformed", 'unpaired data ("completion" and "label"): a pair needs both answers')
    if "completions" in value and "labels" in value:
        raise Unusable("malformed", 'stepwise data ("completions" and "labels"): not preference pairs')
    if not {"chosen", "rejected"} & value.keys() and {"messages", "conversations"} & value.keys():
        raise Unusable("malformed", "one conversation without a rejected answer: supervised training data, not pairs")
    columns = ", ".join(map(str, value)) or "none"
    raise Unusable("malformed", f"no column {' and no column '.join(map(repr, missing))}; columns: {columns}")


def shape_of(prompt: Any, chosen: Any, rejected: Any) -> PairFormat:
    """The TRL shape of three columns.

    Raises:
        Unusable: they have none of the shapes.
    """
    if isinstance(chosen, str) and isinstance(rejected, str) and isinstance(prompt, str | None):
        if prompt is not None:
            return PairFormat.STANDARD
        is_transcript = all("\n\nAssistant:" in answer for answer in (chosen, rejected))
        return PairFormat.TRANSCRIPT if is_transcript else PairFormat.STANDARD_IMPLICIT
    if isinstance(chosen, list) and isinstance(rejected, list) and isinstance(prompt, list | None):
        for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
            check_messages(name, text or [])
        if prompt is None:
            return PairFormat.CONVERSATIONAL_IMPLICIT
        if not prompt:
            raise Unusable("malformed", '"prompt" is an empty list of messages', holds_pair=True)
        return PairFormat.CONVERSATIONAL
    kinds = f'"prompt" is a {kind(prompt)}, ' if prompt is not None else ""
    kinds += f'"chosen" a {kind(chosen)}, "rejected" a {kind(rejected)}'
    raise Unusable("malformed", f"{kinds}; all must be strings, or all lists of messages", holds_pair=True)


def check_messages(name: str, messages: Messages) -> None:
    """Check that every item of a column is a message with a role and text.

    Raises:
        Unusable: one is not.
    """
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Unusable("malformed", f'"{name}" has an item that is not a message with a role', holds_pair=True)
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        if not isinstance(content, str | list | None) or any(map(_is_not_text, blocks)):
            raise Unusable("malformed", f'"{name}" has content that is not text', holds_pair=True)


def _is_not_text(block: Any) -> bool:
    return not isinstance(block, dict) or block.get("type") != "text"


def _parsed(name: str, value: Any) -> Any:
    """A structured column. Text, as in CSV, is parsed as JSON; an empty text becomes None."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value else None
    except ValueError as error:
        raise Unusable("malformed", f'"{name}" is not JSON: {error}', holds_pair=True) from error


def extract_prompt(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Split two texts with an implicit prompt into prompt, chosen and rejected, exactly as TRL 1.16 does.

    This reproduces TRL's quirks. A space before the first difference goes to the answers. If the first characters
    differ, this check wraps around to the end of `chosen`. If one text starts with the other, the last shared character
    or message also goes to the answers.
    """
    length = min(len(chosen), len(rejected))
    shared = length - 1
    for position in range(length):
        if chosen[position] != rejected[position]:
            shared = position - 1 if chosen[position - 1] == " " else position
            break
    return chosen[:shared], chosen[shared:], rejected[shared:]


def kind(value: Any) -> str:
    """The JSON type name of a value."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
