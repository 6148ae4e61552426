"""Formats with the prompt in columns that TRL does not read, and transcripts."""

from __future__ import annotations

from typing import Any

from entangle_cli.data.formats.conversations import Message, chat, earlier_turns, user
from entangle_cli.data.formats.format import NotAPair, Row
from entangle_cli.records.measurement import shared_prefix


def orca(row: Row) -> dict[str, Any]:
    """System, question and two answers; TRL would train on the answers alone, without the question."""
    question = row["question"] if row.get("question") is not None else row["input"]
    if row.get("status") == "tie":
        raise NotAPair("tie", '"status" is tie')
    return chat(row.get("system"), question, row["chosen"], row["rejected"])


def alpaca(row: Row) -> dict[str, Any]:
    """Instruction and input are one turn, earlier ones stand in `history`."""
    prompt = alpaca_prompt(row["instruction"], row.get("input"), row.get("history"))
    return chat(row.get("system"), prompt, row["chosen"], row["rejected"])


def alpaca_prompt(instruction: Any, query: Any, history: Any) -> list[Message]:
    """Earlier turns, and one of the user that is the instruction and what goes with it."""
    return [*earlier_turns(history), user("\n".join(text for text in (instruction, query) if text))]


def step_dpo(row: Row) -> dict[str, Any]:
    """Step-DPO: the first steps of the solution stand behind the question, as its trainer's alpaca style has it."""
    steps = row["initial_reason_steps"]
    prompt = f"{row['prompt']}\n{steps}" if steps else row["prompt"]
    return {"prompt": prompt, "chosen": row["chosen"], "rejected": row["rejected"]}


ASSISTANT_TURN = "\n\nAssistant:"


def hh(row: Row) -> dict[str, Any]:
    """hh-rlhf by turns: the answers are what follows the last `Assistant:` that both transcripts share."""
    chosen, rejected = row["chosen"], row["rejected"]
    shared = shared_prefix(chosen, rejected)
    start = chosen.rfind(ASSISTANT_TURN, 0, shared)
    if start < 0:
        raise NotAPair("malformed", "the transcripts share no turn of an assistant")
    end = start + len(ASSISTANT_TURN)
    return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}
