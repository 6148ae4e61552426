"""What goes wrong without an error in preference data: one code and one sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

PROMPT_COLUMNS = {
    "question": "orca",
    "instruction": "alpaca",
    "input": "orca",
    "query": None,
    "history": None,
    "context": None,
    "problem": None,
    "conversations": "turns",
    "conversation": "turns",
    "messages": "turns",
    "trajectory": "turns",
}
"""Columns that hold a prompt under another name, which TRL does not see, and the `--data-format` that reads each."""

PREFILL_COLUMNS = {"initial_reason_steps": "step-dpo"}
"""Columns that hold the end of the prompt beside `prompt`, likewise."""

MESSAGES = {
    "W-QUESTION-UNUSED": "the prompt, or a part of it, stands in a column that TRL does not read: it would train on "
    "the answers without it",
    "W-PROMPT-EMPTY": "the prompt is empty",
    "W-PROMPT-REPEATED": "both answers repeat the prompt: it is scored as if it were the answer, as in TRL",
    "W-EMPTY-ANSWER": "an answer is empty: its end-of-sequence token alone is scored, as in TRL",
    "W-BLANK-ANSWER": "an answer holds nothing but white space",
    "W-ANSWER-ROLE": "an answer begins with a message that is not the assistant's",
    "W-SYSTEM-UNUSED": "a system column that TRL does not read; --map takes it, with system=COLUMN beside the "
    "other three",
    "W-MESSAGES-AS-TEXT": "a text is a list of messages in Python's or JSON's notation, and is scored as it stands; "
    "write a list of messages instead (in CSV: as json.dumps does)",
    "W-DUPLICATE-KEY": "a JSON object has the same key twice; the last value counts",
    "W-TRANSCRIPT": "transcripts: the prompt is all that the two texts share, character by character, as TRL takes it; "
    "--data-format hh splits them at their turns",
    "W-SHARED-WORDS": "words that both answers start with went into the implicit prompt and are not scored, as in TRL",
    "W-REF-MISSING": "no reference log-probs in the row where others have them: its reference is this checkpoint",
    "W-BOUNDARY": "the tokenised prompt is no prefix of prompt and answer; as in TRL, scoring starts where they part",
    "W-GENERATION-PROMPT": "the chat template puts other text before an answer than its generation prompt has: "
    "that part is scored as if it were the answer, as in TRL",
    "W-BOS-DOUBLED": "two beginning-of-sequence tokens: the text holds one, and the tokenizer adds another, as in TRL",
    "W-EOS-DOUBLED": "two end-of-sequence tokens after an answer: one in the text or from the tokenizer, and TRL's",
    "W-TRUNCATED": "scored tokens of a response were cut at --max-length",
    "W-BOTH-TRUNCATED": "scored tokens of both responses were cut at --max-length: only parts are compared",
    "W-PROMPT-TRUNCATED": "the start of the prompt was cut at --max-length (keep_end)",
    "W-IDENTICAL-TRUNCATED": "the two responses are the same once cut at --max-length, and were skipped",
    "W-CONTEXT": "longer than the context that the model was made for: its log-probs mean little there",
    "W-SCORE-ORDER": "the chosen answer has a lower score than the rejected one: the two may be exchanged",
    "W-CONTRADICTION": "the same two answers to the same prompt, preferred both ways",
    "W-DUPLICATE": "rows that repeat an earlier pair",
}
"""In the order in which they are shown."""

SHORT_PROMPT = 12
"""Characters up to which an answer may begin with the prompt's words by chance, as with 'Hi'."""

WRITTEN_MESSAGES = re.compile(r"""\s*\[\s*\{\s*(['"])(role|content|from|value)\1\s*:""")

Text = str | list[dict[str, Any]]


def unread_columns(row: Mapping[str, Any], *, read_by_trl: bool) -> tuple[str, ...]:
    """The columns of a row that hold a prompt, or a part of one, that is not read."""
    if not read_by_trl:
        return ("prompt",) if _has_prompt_of_its_own(row) else ()
    columns = PREFILL_COLUMNS if row.get("prompt") is not None else PROMPT_COLUMNS
    return tuple(name for name in columns if row.get(name))


def _has_prompt_of_its_own(row: Mapping[str, Any]) -> bool:
    """Whether a text prompt stands beside conversations of which none of the user's turns repeats it."""
    prompt, chosen = row.get("prompt"), row.get("chosen")
    if not isinstance(prompt, str) or not prompt.strip() or not isinstance(chosen, list):
        return False
    turns = [turn for turn in chosen if isinstance(turn, dict)]
    roles = [turn.get("role", turn.get("from")) for turn in turns]
    if not roles or roles[0] in ("assistant", "gpt", "bot"):
        return False
    return all(prompt.strip() not in content_text(turn.get("content", turn.get("value"))) for turn in turns)


def question_message(columns: Iterable[str]) -> str:
    """The sentence on columns that hold a prompt and are not read, with what reads them."""
    formats = {**PROMPT_COLUMNS, **PREFILL_COLUMNS}
    names = sorted(columns)
    if names == ["prompt"]:
        return f"{MESSAGES['W-QUESTION-UNUSED']}: prompt, which no turn of the conversations repeats"
    found = dict.fromkeys(filter(None, map(formats.get, names)))
    if "alpaca" in found:
        found.pop("orca", None)  # its `input` goes with the instruction
    readings = [f"--data-format {name}" for name in found]
    remedy = " or ".join(readings) if readings else "--map prompt=COLUMN with the other two"
    return f"{MESSAGES['W-QUESTION-UNUSED']}: {', '.join(names)}; {remedy} reads it"


def traps_of_row(
    row: Mapping[str, Any],
    prompt: Text,
    answers: tuple[Text, Text],
    scores: tuple[float | None, float | None],
    *,
    read_by_trl: bool,
    is_transcript: bool,
    is_implicit: bool,
) -> Iterator[str]:
    """The codes of what can be seen in a row's text.

    Args:
        prompt, answers: as they were read.
        scores: what the data set says of the two answers; higher is better.
        read_by_trl: the row is read as TRL reads it, and no other way.
        is_implicit: TRL found the prompt by comparing the answers, character by character.
    """
    if scores[0] is not None and scores[1] is not None and scores[0] < scores[1]:
        yield "W-SCORE-ORDER"
    if unread_columns(row, read_by_trl=read_by_trl):
        yield "W-QUESTION-UNUSED"
    if not text_of(prompt).strip():
        yield "W-PROMPT-EMPTY"
    elif not is_implicit and all(_repeats(prompt, answer) for answer in answers):
        yield "W-PROMPT-REPEATED"
    elif any(isinstance(answer, list) and answer and answer[0].get("role") != "assistant" for answer in answers):
        yield "W-ANSWER-ROLE"
    says = [_says(answer) for answer in answers]
    if "" in says:
        yield "W-EMPTY-ANSWER"
    if any(text and not text.strip() for text in says):
        yield "W-BLANK-ANSWER"
    if read_by_trl and row.get("system"):
        yield "W-SYSTEM-UNUSED"
    if any(isinstance(part, str) and WRITTEN_MESSAGES.match(part) for part in (prompt, *answers)):
        yield "W-MESSAGES-AS-TEXT"
    if is_transcript:
        yield "W-TRANSCRIPT"
    if is_implicit and _ends_in_an_answer(prompt, answers, is_transcript):
        yield "W-SHARED-WORDS"


def _repeats(prompt: Text, answer: Text) -> bool:
    """Whether an answer begins with the prompt."""
    if isinstance(prompt, list) and isinstance(answer, list):
        return answer[: len(prompt)] == prompt
    if isinstance(prompt, str) and isinstance(answer, str):
        words = prompt.strip()
        return len(words) > SHORT_PROMPT and answer.lstrip().startswith(words)
    return False


def _says(answer: Text) -> str:
    """The words of an answer; those of its last message where it is a conversation, with its tool calls."""
    if isinstance(answer, str):
        return answer
    last = answer[-1] if answer else {}
    return "a tool call" if last.get("tool_calls") else content_text(last.get("content"))


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
