"""Raw rows to preference pairs, recognised row by row; a row that is no usable pair becomes a reason."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from entangle_cli.data.formats import NotAPair, named, recognised
from entangle_cli.data.rows import RawRow

Messages = list[dict[str, Any]]
Text = str | Messages


class PairFormat(str, Enum):
    """The shapes that TRL takes; see `formats` for those that are rewritten."""

    STANDARD = "TRL standard"
    STANDARD_IMPLICIT = "TRL standard, prompt implicit"
    TRANSCRIPT = "hh-rlhf transcript, read as TRL reads it"
    CONVERSATIONAL = "TRL conversational"
    CONVERSATIONAL_IMPLICIT = "TRL conversational, prompt implicit"


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A pair in the form that TRL tokenises: all three texts strings, or all three lists of messages."""

    index: int
    line: int | None
    format: str
    """How the row was recognised, in words."""
    pair_id: str
    prompt: Text
    chosen: Text
    rejected: Text
    tools: list[Any] | None
    chat_template_kwargs: dict[str, Any]
    ref_log_probs: tuple[float, float] | None = None
    """Reference log-probs of chosen and rejected that the row brings, nats."""


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row that is not measured, and why."""

    index: int
    line: int | None
    reason: str
    detail: str
    pair_id: str | None = None
    holds_pair: bool = True
    """False where the row has no chosen and rejected answer at all."""


class _Unusable(Exception):
    def __init__(self, reason: str, detail: str, holds_pair: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.holds_pair = holds_pair


def read_pair(row: RawRow, data_format: str | None = None) -> PreferencePair | SkippedRow:
    """The preference pair in a row, or the reason why there is none.

    Args:
        data_format: a name of `formats`, in which the row is read whatever its columns; None to recognise it.
    Raises:
        UsageError: there is no format of that name.

    The prompt of a row without one is what its two answers share from the start, as TRL's `extract_prompt` has it:
    by character for strings, by message for conversations.
    """
    try:
        if row.problem is not None:
            raise _Unusable("malformed", row.problem)
        return _pair(row, data_format)
    except RecursionError:
        return SkippedRow(row.index, row.line, "malformed", "nested too deeply")
    except _Unusable as unusable:
        return SkippedRow(row.index, row.line, unusable.reason, unusable.detail, holds_pair=unusable.holds_pair)


def _pair(row: RawRow, data_format: str | None) -> PreferencePair:
    value = row.value
    if not isinstance(value, dict):
        raise _Unusable("malformed", f"a {_kind(value)} where an object was expected")
    value, rewritten = _in_trls_shape(value, data_format)
    _refuse_other_tasks(value)
    chosen, rejected, prompt = value["chosen"], value["rejected"], value.get("prompt")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if answer is None:
            raise _Unusable("null", f'"{name}" is null', holds_pair=True)
    pair_format = _format(prompt, chosen, rejected)
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if _is_empty(answer):
            raise _Unusable("empty", f'"{name}" is empty', holds_pair=True)
    if chosen == rejected:
        raise _Unusable("identical", "the two answers are the same", holds_pair=True)
    if prompt is None:
        prompt, chosen, rejected = extract_prompt(chosen, rejected)
        if isinstance(prompt, list) and not prompt:
            raise _Unusable("malformed", "the two conversations share no first message", holds_pair=True)
    tools = _parsed("tools", value.get("tools"))
    kwargs = _parsed("chat_template_kwargs", value.get("chat_template_kwargs"))
    if not isinstance(tools, list | None):
        raise _Unusable("malformed", f'"tools" is a {_kind(tools)}', holds_pair=True)
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(kwargs, dict):
        raise _Unusable("malformed", f'"chat_template_kwargs" is a {_kind(kwargs)}', holds_pair=True)
    return PreferencePair(
        index=row.index,
        line=row.line,
        format=rewritten or pair_format.value,
        pair_id=pair_id(prompt, chosen, rejected, tools, kwargs),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        tools=tools,
        chat_template_kwargs=kwargs,
        ref_log_probs=_ref_log_probs(value),
    )


def _in_trls_shape(value: dict[str, Any], data_format: str | None) -> tuple[dict[str, Any], str | None]:
    """The row as TRL takes it, and the format that it was rewritten from, if it was."""
    forced = None if data_format is None else named(data_format)
    found = recognised(value) if data_format is None else [forced] if forced is not None else []
    if not found:
        return value, None
    if len(found) > 1:
        titles = " and of ".join(known.title for known in found)
        raise _Unusable("malformed", f"the row has the columns of {titles}", holds_pair=True)
    try:
        pair = found[0].rewrite(value)
    except NotAPair as error:
        raise _Unusable(error.reason, error.detail, holds_pair=True) from error
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        detail = f"the columns of {found[0].title} do not hold what they should: {error}"
        raise _Unusable("malformed", detail, holds_pair=True) from error
    rest = {name: item for name, item in value.items() if name not in {"prompt", "chosen", "rejected"}}
    return {**rest, **pair}, found[0].title


REF_COLUMNS = (("ref_chosen_logps", "ref_rejected_logps"), ("reference_chosen_logps", "reference_rejected_logps"))
"""As TRL's DPOTrainer writes precomputed reference log-probs, now and before version 0.12."""


def _ref_log_probs(value: dict[str, Any]) -> tuple[float, float] | None:
    for names in REF_COLUMNS:
        found = [value.get(name) for name in names]
        if all(number is None or number == "" for number in found):
            continue
        try:
            chosen, rejected = (float(str(number)) for number in found)
        except ValueError as error:
            raise _Unusable(
                "malformed", f'"{names[0]}" and "{names[1]}" are not both numbers', holds_pair=True
            ) from error
        if not (math.isfinite(chosen) and math.isfinite(rejected)):
            raise _Unusable("malformed", f'"{names[0]}" or "{names[1]}" is not finite', holds_pair=True)
        return chosen, rejected
    return None


def _refuse_other_tasks(value: dict[str, Any]) -> None:
    for name in ("image", "images", "videos", "audios"):
        if value.get(name):
            raise _Unusable("malformed", f'"{name}": vision and audio pairs cannot be measured')
    missing = [name for name in ("chosen", "rejected") if name not in value]
    if not missing:
        return
    if "completion" in value and "label" in value:
        raise _Unusable("malformed", 'unpaired data ("completion" and "label"): a pair needs both answers')
    if "completions" in value and "labels" in value:
        raise _Unusable("malformed", 'stepwise data ("completions" and "labels"): not preference pairs')
    columns = ", ".join(map(str, value)) or "none"
    raise _Unusable("malformed", f"no {' and no '.join(missing)}; columns: {columns}")


def _format(prompt: Any, chosen: Any, rejected: Any) -> PairFormat:
    if isinstance(chosen, str) and isinstance(rejected, str) and isinstance(prompt, str | None):
        if prompt is not None:
            return PairFormat.STANDARD
        is_transcript = all("\n\nAssistant:" in answer for answer in (chosen, rejected))
        return PairFormat.TRANSCRIPT if is_transcript else PairFormat.STANDARD_IMPLICIT
    if isinstance(chosen, list) and isinstance(rejected, list) and isinstance(prompt, list | None):
        for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
            _check_messages(name, text or [])
        if prompt is None:
            return PairFormat.CONVERSATIONAL_IMPLICIT
        if not prompt:
            raise _Unusable("malformed", '"prompt" is an empty list of messages', holds_pair=True)
        return PairFormat.CONVERSATIONAL
    kinds = f'"prompt" is a {_kind(prompt)}, ' if prompt is not None else ""
    kinds += f'"chosen" a {_kind(chosen)}, "rejected" a {_kind(rejected)}'
    raise _Unusable("malformed", f"{kinds}; all must be strings, or all lists of messages", holds_pair=True)


def _check_messages(name: str, messages: Messages) -> None:
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _Unusable("malformed", f'"{name}" holds something that is no message with a role', holds_pair=True)
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        if not isinstance(content, str | list | None) or any(map(_is_not_text, blocks)):
            raise _Unusable("malformed", f'"{name}" holds content that is not text', holds_pair=True)


def _is_not_text(block: Any) -> bool:
    return not isinstance(block, dict) or block.get("type") != "text"


def _is_empty(answer: Text) -> bool:
    if isinstance(answer, str):
        return answer == ""
    return not answer or not (answer[-1].get("content") or answer[-1].get("tool_calls"))


def _parsed(name: str, value: Any) -> Any:
    """A column of structure; text, as CSV has it, is its JSON, and no text nothing."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value else None
    except ValueError as error:
        raise _Unusable("malformed", f'"{name}" is not JSON: {error}', holds_pair=True) from error


def extract_prompt(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Prompt, chosen and rejected of two texts that hold the prompt implicitly, exactly as TRL 1.16 splits them.

    TRL's ways are kept, odd as they are. A space before the first difference goes to the answers, and that look at the
    character before wraps around to the end of `chosen` where the first characters differ. Where one text
    starts with the other, its last shared character or message goes to the answers too.
    """
    length = min(len(chosen), len(rejected))
    shared = length - 1
    for place in range(length):
        if chosen[place] != rejected[place]:
            shared = place - 1 if chosen[place - 1] == " " else place
            break
    return chosen[:shared], chosen[shared:], rejected[shared:]


def pair_id(prompt: Text, chosen: Text, rejected: Text, tools: list[Any] | None, kwargs: dict[str, Any]) -> str:
    """Hash of the normalised pair, the same in any file: BLAKE2b with 128 bits, hexadecimal."""
    parts = [prompt, chosen, rejected, tools or None, kwargs or None]
    text = json.dumps(_without_nulls(parts), ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _without_nulls(value: Any) -> Any:
    """Drop null-valued keys: Parquet and Arrow add them to messages that lack a key another message has."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
