"""What goes wrong without an error in preference data: one code and one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

QUESTION_COLUMNS = ("question", "instruction", "input", "query", "history", "context")
"""Columns that hold a prompt under another name, which TRL would not see."""

MESSAGES = {
    "W-QUESTION-UNUSED": "the prompt stands in a column that TRL does not read: it would train on the answers alone; "
    "--data-format orca or alpaca takes it",
    "W-PROMPT-EMPTY": "the prompt is empty",
    "W-SYSTEM-UNUSED": "a system column that TRL does not read; --map takes it, with system=COLUMN beside the "
    "other three",
    "W-TRANSCRIPT": "transcripts: the prompt is all that the two texts share, character by character, as TRL takes it; "
    "--data-format hh splits them at their turns",
    "W-SHARED-WORDS": "words that both answers start with went into the implicit prompt and are not scored, as in TRL",
    "W-BOUNDARY": "the tokenised prompt is no prefix of prompt and answer; as in TRL, scoring starts where they part",
    "W-GENERATION-PROMPT": "the chat template puts other text before an answer than its generation prompt has: "
    "that part is scored as if it were the answer, as in TRL",
    "W-TRUNCATED": "a response was cut at --max-length",
    "W-BOTH-TRUNCATED": "both responses were cut at --max-length: only their beginnings are compared",
    "W-IDENTICAL-TRUNCATED": "the two responses are the same once cut at --max-length, and were skipped",
    "W-CONTRADICTION": "the same two answers to the same prompt, preferred both ways",
    "W-DUPLICATE": "rows that repeat an earlier pair",
}
"""In the order in which they are shown."""

Text = str | list[dict[str, Any]]


def traps_of_row(
    row: Mapping[str, Any],
    prompt: Text,
    answers: tuple[Text, Text],
    *,
    read_by_trl: bool,
    is_transcript: bool,
    is_implicit: bool,
) -> Iterator[str]:
    """The codes of what can be seen in a row's text.

    Args:
        prompt, answers: as they were read.
        read_by_trl: the row is read as TRL reads it, and no other way.
        is_implicit: TRL found the prompt by comparing the answers, character by character.
    """
    if read_by_trl and row.get("prompt") is None and any(row.get(name) for name in QUESTION_COLUMNS):
        yield "W-QUESTION-UNUSED"
    if not text_of(prompt).strip():
        yield "W-PROMPT-EMPTY"
    if read_by_trl and row.get("system"):
        yield "W-SYSTEM-UNUSED"
    if is_transcript:
        yield "W-TRANSCRIPT"
    if is_implicit and _ends_in_an_answer(prompt, answers, is_transcript):
        yield "W-SHARED-WORDS"


def _ends_in_an_answer(prompt: Text, answers: tuple[Text, Text], is_transcript: bool) -> bool:
    """Whether an implicit prompt goes on into the answers: behind its last turn, or to the middle of a word."""
    if not isinstance(prompt, str):
        return False
    if is_transcript:
        return bool(prompt.rpartition("\n\nAssistant:")[2].strip())
    return prompt[-1:].isalnum() and any(str(answer)[:1].isalnum() for answer in answers)


def text_of(part: Text) -> str:
    """All the words of a text or of messages."""
    if isinstance(part, str):
        return part
    return "\n".join(content_text(message.get("content")) for message in part)


def content_text(content: Any) -> str:
    """The words of one message's content."""
    if isinstance(content, list):
        return "\n".join(str(block.get("text", "")) for block in content)
    return "" if content is None else str(content)
