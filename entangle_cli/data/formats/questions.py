"""Transcripts, and formats with the prompt in columns that TRL does not read."""

from __future__ import annotations

from typing import Any

from entangle_cli.data.formats.conversations import Message, chat, earlier_turns, user
from entangle_cli.data.formats.format import NotAPair, Row
from entangle_cli.records.measurement import shared_prefix


def orca(row: Row) -> dict[str, Any]:
    """System, question and two answers. TRL itself would train only on the answers, without the question."""
    question = row["question"] if row.get("question") is not None else row["input"]
    if row.get("status") == "tie":
        raise NotAPair("tie", '"status" is tie')
    return chat(row.get("system"), question, row["chosen"], row["rejected"])


def alpaca(row: Row) -> dict[str, Any]:
    """Instruction and input form one turn. Earlier turns are in `history`."""
    prompt = alpaca_prompt(row["instruction"], row.get("input"), row.get("history"))
    return chat(row.get("system"), prompt, row["chosen"], row["rejected"])


def alpaca_prompt(instruction: Any, query: Any, history: Any) -> list[Message]:
    """Earlier turns, and a user turn with the instruction and its input."""
    return [*earlier_turns(history), user("\n".join(text for text in (instruction, query) if text))]


def step_dpo(row: Row) -> dict[str, Any]:
    """Step-DPO: the first steps of the solution follow the question, as in its trainer's alpaca style."""
    steps = row["initial_reason_steps"]
    prompt = f"{row['prompt']}\n{steps}" if steps else row["prompt"]
    return {"prompt": prompt, "chosen": row["chosen"], "rejected": row["rejected"]}


ASSISTANT_TURN = "\n\nAssistant:"


def hh(row: Row) -> dict[str, Any]:
    """hh-rlhf by turns: the answers start after the last `Assistant:` shared by both transcripts."""
    chosen, rejected = row["chosen"], row["rejected"]
    shared = shared_prefix(chosen, rejected)
    start = chosen.rfind(ASSISTANT_TURN, 0, shared)
    if start < 0:
        raise NotAPair("malformed", "the transcripts share no assistant turn")
    end = start + len(ASSISTANT_TURN)
    return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}
