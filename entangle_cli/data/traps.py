"""Silent problems in preference data, each with a warning code and a message."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
"""Columns with a prompt under another name, which TRL does not read, and the `--data-format` that reads each."""

PREFILL_COLUMNS = {"initial_reason_steps": "step-dpo"}
"""Columns with the end of the prompt, in addition to `prompt`, and the `--data-format` that reads each."""

MESSAGES = {
    "W-QUESTION-UNUSED": "all or part of the prompt is in a column that TRL does not read; TRL would train on the "
    "answers without it",
    "W-PROMPT-EMPTY": "the prompt is empty",
    "W-PROMPT-REPEATED": "both answers repeat the prompt: it is scored as part of the answer, as in TRL",
    "W-EMPTY-ANSWER": "an answer is empty: only its end-of-sequence token is scored, as in TRL",
    "W-BLANK-ANSWER": "an answer contains only white space",
    "W-ANSWER-ROLE": "an answer starts with a message that is not the assistant's",
    "W-SYSTEM-UNUSED": "TRL does not read the system column; to use it, read the rows with --map and add "
    "--map system=COLUMN",
    "W-MESSAGES-AS-TEXT": "a text looks like a list of messages in Python or JSON notation and is scored as plain "
    "text; store a list of messages instead (in CSV: written by json.dumps)",
    "W-DUPLICATE-KEY": "a JSON object has the same key twice; the last value counts",
    "W-TRANSCRIPT": "transcripts: the prompt is the common start of the two texts, by character, as in TRL; "
    "--data-format hh splits them by turn",
    "W-SHARED-WORDS": "words at the start of both answers became part of the implicit prompt and are not scored, as in "
    "TRL",
    "W-REF-MISSING": "the row has no reference log-probs, but other rows do: its reference is this checkpoint",
    "W-BOUNDARY": "the prompt's tokens are not a prefix of the tokens of prompt and answer; as in TRL, scoring starts "
    "where they differ",
    "W-GENERATION-PROMPT": "before an answer, the chat template inserts text that is not in its generation prompt: "
    "that text is scored as part of the answer, as in TRL",
    "W-BOS-DOUBLED": "two beginning-of-sequence tokens: one is in the text, and the tokenizer adds another, as in TRL",
    "W-EOS-DOUBLED": "two end-of-sequence tokens after an answer: one from the text or the tokenizer, one added by TRL",
    "W-TRUNCATED": "scored tokens of a response were cut at --max-length",
    "W-BOTH-TRUNCATED": "scored tokens of both responses were cut at --max-length: only parts are compared",
    "W-PROMPT-TRUNCATED": "the start of the prompt was cut at --max-length (keep_end)",
    "W-IDENTICAL-TRUNCATED": "the two responses are identical after truncation to --max-length, and were skipped",
    "W-CONTEXT": "longer than the model's context: log-probs are unreliable there",
    "W-SCORE-ORDER": "the chosen answer has a lower score than the rejected one: the two may be swapped",
    "W-CONTRADICTION": "the same prompt and the same two answers, with opposite preferences",
    "W-DUPLICATE": "rows that repeat an earlier pair",
}
"""Warning code to message, in display order."""

SHORT_PROMPT = 12
"""Longest prompt, in characters, that an answer may repeat by chance, such as 'Hi'."""

WRITTEN_MESSAGES = re.compile(r"""\s*\[\s*\{\s*(['"])(role|content|from|value)\1\s*:""")

Text = str | list[dict[str, Any]]


def unread_columns(row: Mapping[str, Any], *, read_by_trl: bool) -> tuple[str, ...]:
    """The columns of a row that hold all or part of a prompt and are not read."""
    if not read_by_trl:
        return ("prompt",) if _has_prompt_of_its_own(row) else ()
    columns = PREFILL_COLUMNS if row.get("prompt") is not None else PROMPT_COLUMNS
    return tuple(name for name in columns if row.get(name))


def _has_prompt_of_its_own(row: Mapping[str, Any]) -> bool:
    """Whether a row has a text prompt that no turn of its conversations repeats."""
    prompt, chosen = row.get("prompt"), row.get("chosen")
    if not isinstance(prompt, str) or not prompt.strip() or not isinstance(chosen, list):
        return False
    turns = [turn for turn in chosen if isinstance(turn, dict)]
    roles = [turn.get("role", turn.get("from")) for turn in turns]
    if not roles or roles[0] in ("assistant", "gpt", "bot"):
        return False
    return all(prompt.strip() not in content_text(turn.get("content", turn.get("value"))) for turn in turns)


def question_message(columns: Iterable[str]) -> str:
    """The message about unread prompt columns, with the options that read them."""
    formats = {**PROMPT_COLUMNS, **PREFILL_COLUMNS}
    names = sorted(columns)
    if names == ["prompt"]:
        return f"{MESSAGES['W-QUESTION-UNUSED']}: prompt, which no turn of the conversations repeats"
    fitting = dict.fromkeys(filter(None, map(formats.get, names)))
    if "alpaca" in fitting:
        fitting.pop("orca", None)  # in alpaca, `input` belongs to the instruction
    options = [f"--data-format {name}" for name in fitting]
    remedy = " or ".join(options) if options else "--map prompt=COLUMN with the other two"
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
    """Warning codes for problems in a row's text.

    Args:
        prompt, answers: prompt and answers after reading.
        scores: the data set's scores of the two answers; higher is better.
        read_by_trl: the row was not rewritten but read as TRL reads it.
        is_transcript: the answers are hh-rlhf transcripts.
        is_implicit: the prompt is the common start of the answers.
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
    texts = [_last_text(answer) for answer in answers]
    if "" in texts:
        yield "W-EMPTY-ANSWER"
    if any(text and not text.strip() for text in texts):
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
    """Whether an answer starts with the prompt."""
    if isinstance(prompt, list) and isinstance(answer, list):
        return answer[: len(prompt)] == prompt
    if isinstance(prompt, str) and isinstance(answer, str):
        words = prompt.strip()
        return len(words) > SHORT_PROMPT and answer.lstrip().startswith(words)
    return False


def _last_text(answer: Text) -> str:
    """The text of an answer. For a conversation, the text of its last message, or a placeholder for a tool call."""
    if isinstance(answer, str):
        return answer
    last = answer[-1] if answer else {}
    return "a tool call" if last.get("tool_calls") else content_text(last.get("content"))


def _ends_in_an_answer(prompt: Text, answers: tuple[Text, Text], is_transcript: bool) -> bool:
    """Whether an implicit prompt includes the start of the answers: text after its last turn, or part of a word."""
    if not isinstance(prompt, str):
        return False
    if is_transcript:
        return bool(prompt.rpartition("\n\nAssistant:")[2].strip())
    return prompt[-1:].isalnum() and any(str(answer)[:1].isalnum() for answer in answers)


def text_of(part: Text) -> str:
    """The full text of a string or of messages."""
    if isinstance(part, str):
        return part
    return "\n".join(content_text(message.get("content")) for message in part)


def content_text(content: Any) -> str:
    """The text of one message's content."""
    if isinstance(content, list):
        return "\n".join(str(block.get("text", "")) for block in content)
    return "" if content is None else str(content)


def plain_text(part: str | Sequence[Mapping[str, Any]]) -> str:
    """A prompt or an answer as a person reads it: its text, or its messages, each after its role."""
    if isinstance(part, str):
        return part
    return "\n".join(f"{message['role']}: {content_text(message.get('content'))}" for message in part)
