"""All formats, and recognition of a row's format."""

from __future__ import annotations

import difflib
from typing import Any

from entangle_cli.data.formats import adjacent, conversations, labelled, questions, ranked
from entangle_cli.data.formats.format import Format, Row, has
from entangle_cli.errors import UsageError

FORMATS = (
    Format(
        "ultrafeedback",
        "text prompt and lists of messages, which may repeat it (UltraFeedback)",
        conversations.is_ultrafeedback,
        conversations.ultrafeedback,
    ),
    Format(
        "argilla",
        "argilla, chosen_response and rejected_response",
        has("chosen_response", "rejected_response"),
        labelled.argilla,
    ),
    Format("pku", "PKU-SafeRLHF", labelled.is_pku, labelled.pku),
    Format(
        "helpsteer2",
        "HelpSteer2 preference",
        has("prompt", "response_1", "response_2", "preference_strength"),
        labelled.helpsteer2,
    ),
    Format(
        "helpsteer3",
        "HelpSteer3 preference",
        has("context", "response1", "response2", "overall_preference"),
        labelled.helpsteer3,
    ),
    Format("shp", "SHP", has("history", "human_ref_A", "human_ref_B", "labels"), labelled.shp),
    Format(
        "sharegpt",
        "conversation with one turn per answer (LLaMA-Factory sharegpt, Axolotl)",
        conversations.is_sharegpt,
        conversations.sharegpt,
    ),
    Format(
        "turns",
        "turns and two answers (Axolotl, oumi, OpenRLHF, UltraInteract)",
        conversations.is_turns,
        conversations.turns,
    ),
    Format("openai", "OpenAI preference fine-tuning", conversations.is_openai, conversations.openai),
    Format("ms-swift", "ms-swift", conversations.is_swift, conversations.swift),
    Format(
        "torchtune",
        "two whole conversations (torchtune)",
        has(*conversations.TORCHTUNE),
        conversations.torchtune,
    ),
    Format(
        "webgpt",
        "WebGPT comparisons",
        has("question", "answer_0", "answer_1", "score_0", "score_1"),
        labelled.webgpt,
    ),
    Format(
        "arena",
        "Chatbot Arena, one flag per outcome",
        has("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        labelled.arena_votes,
    ),
    Format(
        "arena-conversations",
        "Chatbot Arena, conversations and a winner",
        has("conversation_a", "conversation_b", "winner"),
        labelled.arena_conversations,
    ),
    Format("nectar", "Nectar, ranked answers", has("prompt", "answers"), ranked.nectar),
    Format("nemo-rl", "NeMo-RL, ranked completions", has("context", "completions"), ranked.nemo),
    Format(
        "stack-exchange",
        "stack-exchange preferences, answers by pm_score",
        ranked.is_stack_exchange,
        ranked.stack_exchange,
    ),
    Format(
        "ultrafeedback-raw",
        "UltraFeedback completions by fine-grained_score",
        ranked.is_raw_ultrafeedback,
        ranked.raw_ultrafeedback,
    ),
    Format(adjacent.POINTWISE, adjacent.TITLE, ranked.is_scored, ranked.scored),
    Format("output-list", "LLaMA-Factory ranking, a list of answers", ranked.is_output_list, ranked.output_list),
    Format(
        "several-rejected",
        "one chosen and several rejected answers (uses the first; --ranked all uses every one)",
        ranked.is_several_rejected,
        ranked.several_rejected,
    ),
    Format("summarize", "summarize-from-feedback comparisons", has("info", "summaries", "choice"), labelled.summarize),
    Format("pku-better", "PKU-SafeRLHF by better_response_id", None, labelled.pku_by("better_response_id")),
    Format("pku-safer", "PKU-SafeRLHF by safer_response_id", None, labelled.pku_by("safer_response_id")),
    Format("hh", "hh-rlhf transcript, split at its turns", None, questions.hh),
    Format("orca", "Orca, system and question", None, questions.orca),
    Format("alpaca", "LLaMA-Factory alpaca", None, questions.alpaca),
    Format("step-dpo", "Step-DPO, the first steps after the question", None, questions.step_dpo),
)
"""Formats without `matches` are used only with --data-format. TRL can read their rows but misinterprets them."""

TRL = "trl"
"""Reads every row as TRL would."""


def recognised(row: Row) -> list[Format]:
    """All formats that match a row's columns; empty if TRL can read the row unchanged."""
    return [] if is_trls(row) else [known for known in FORMATS if known.matches is not None and known.matches(row)]


def is_trls(row: Row) -> bool:
    """Whether TRL's DPOTrainer can read a row unchanged: all texts, or all lists of messages that include a prompt."""
    prompt: Any = row.get("prompt")
    chosen: Any = row.get("chosen")
    rejected: Any = row.get("rejected")
    if all(isinstance(answer, str) for answer in (chosen, rejected)):
        return isinstance(prompt, str | None)
    parts = [chosen, rejected, *([] if prompt is None else [prompt])]
    if not all(isinstance(part, list) and all(map(_has_role, part)) for part in parts):
        return False
    # Without a prompt column, TRL extracts the prompt from the common start of both conversations.
    return prompt is not None or chosen[:1] == rejected[:1]


def _has_role(turn: Any) -> bool:
    return isinstance(turn, dict) and "role" in turn


def named(name: str) -> Format | None:
    """The format of a `--data-format` value; None for `trl`, which rewrites nothing.

    Raises:
        UsageError: the name is unknown.
    """
    if name == TRL:
        return None
    by_name = {known.name: known for known in FORMATS}
    if name not in by_name:
        near = difflib.get_close_matches(name, [TRL, *by_name], n=1)
        raise UsageError(
            f"--data-format {name}",
            f"one of {', '.join([TRL, *by_name])}",
            f"did you mean {near[0]}?" if near else "use one of these, or omit --data-format",
        )
    return by_name[name]
