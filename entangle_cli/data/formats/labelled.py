"""Formats with two answers and a label or two scores for the better one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from entangle_cli.data.formats.conversations import assistant, messages, user
from entangle_cli.data.formats.format import NotAPair, Row, finite_number, has, shown


def argilla(row: Row) -> dict[str, Any]:
    """`chosen_response` and `rejected_response`."""
    return {
        "prompt": row.get("instruction") or row.get("prompt") or row.get("input"),
        "chosen": row["chosen_response"],
        "rejected": row["rejected_response"],
    }


def is_pku(row: Row) -> bool:
    """Whether a row has the columns of PKU-SafeRLHF."""
    judged = ("better_response_id", "safer_response_id")
    return has("prompt", "response_0", "response_1")(row) and any(row.get(name) is not None for name in judged)


def pku(row: Row) -> dict[str, Any]:
    """PKU-SafeRLHF. The two labels must agree."""
    better, safer = row.get("better_response_id"), row.get("safer_response_id")
    if better is not None and safer is not None and better != safer:
        raise NotAPair("labels_disagree", f"better_response_id is {better}, safer_response_id is {safer}")
    return _two_answers(row["prompt"], row["response_0"], row["response_1"], better if better is not None else safer)


def pku_by(label: str) -> Callable[[Row], dict[str, Any]]:
    """PKU-SafeRLHF, using one of its two labels."""
    return lambda row: _two_answers(row["prompt"], row["response_0"], row["response_1"], row[label])


def _two_answers(prompt: Any, first: Any, second: Any, chosen: Any) -> dict[str, Any]:
    """A pair from two answers and the number of the chosen one, 0 or 1."""
    number = finite_number(chosen)
    if number not in (0, 1):
        raise NotAPair("malformed", f"label {shown(chosen)}, expected 0 or 1 for the better answer")
    answers = (first, second) if number == 0 else (second, first)
    return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}


def _by_strength(prompt: Any, first: Any, second: Any, strength: Any) -> dict[str, Any]:
    """A pair from two answers and a number. A negative number prefers the first answer, a positive one the second."""
    number = finite_number(strength)
    if number is None:
        raise NotAPair("malformed", f"preference {shown(strength)}, expected a number")
    if number == 0:
        raise NotAPair("tie", "both answers are equally preferred")
    return {**_two_answers(prompt, first, second, 0 if number < 0 else 1), "preference_strength": abs(number)}


def helpsteer2(row: Row) -> dict[str, Any]:
    """HelpSteer2's preference split."""
    return _by_strength(row["prompt"], row["response_1"], row["response_2"], row["preference_strength"])


def helpsteer3(row: Row) -> dict[str, Any]:
    """HelpSteer3's preference split."""
    answers = ([assistant(row["response1"])], [assistant(row["response2"])])
    return _by_strength(row["context"], *answers, row["overall_preference"])


def shp(row: Row) -> dict[str, Any]:
    """SHP: `labels` is 1 if A is preferred."""
    labels = finite_number(row["labels"])
    if labels not in (0, 1):
        raise NotAPair("malformed", f'"labels" is {shown(row["labels"])}, not 0 or 1')
    pair = _two_answers(row["history"], row["human_ref_A"], row["human_ref_B"], 1 - labels)
    scores = (row.get("score_A"), row.get("score_B"))
    chosen, rejected = scores if labels == 1 else scores[::-1]
    return {**pair, "chosen_score": chosen, "rejected_score": rejected, "preference_strength": row.get("score_ratio")}


def summarize(row: Row) -> dict[str, Any]:
    """summarize-from-feedback's comparisons."""
    info, summaries = row["info"], row["summaries"]
    texts = [summary.get("text") if isinstance(summary, dict) else None for summary in summaries]
    if not isinstance(info, dict) or len(texts) != 2:
        raise NotAPair("malformed", f'expected "info" and two "summaries", found {len(texts)} summaries')
    if info.get("post") is not None:
        prompt = f"SUBREDDIT: r/{info.get('subreddit')}\nTITLE: {info.get('title')}\nPOST: {info['post']}\nTL;DR:"
    elif info.get("article") is not None:
        prompt = f"ARTICLE: {info['article']}\nTL;DR:"
    else:
        raise NotAPair("malformed", '"info" has neither a post nor an article')
    first, second = (f" {text.strip()}" if text else text for text in texts)
    return _two_answers(prompt, first, second, row["choice"])


def webgpt(row: Row) -> dict[str, Any]:
    """WebGPT comparisons: the answer with the higher score is chosen. Equal scores are a tie."""
    question = row["question"]
    scores = [finite_number(row[f"score_{number}"]) for number in (0, 1)]
    if scores[0] is None or scores[1] is None:
        raise NotAPair("malformed", '"score_0" and "score_1" are not both numbers')
    if scores[0] == scores[1]:
        raise NotAPair("tie", f"both answers have score {scores[0]:g}")
    chosen = 0 if scores[0] > scores[1] else 1
    prompt = question["full_text"] if isinstance(question, dict) else question
    return {
        **_two_answers(prompt, row["answer_0"], row["answer_1"], chosen),
        "chosen_score": scores[chosen],
        "rejected_score": scores[1 - chosen],
    }


def arena_votes(row: Row) -> dict[str, Any]:
    """Chatbot Arena with one flag per outcome. Prompt and answers are JSON lists with one entry per turn."""
    won = [finite_number(row[name]) == 1 for name in ("winner_model_a", "winner_model_b")]
    if won[0] == won[1]:
        raise NotAPair("tie", "no model won")
    asked, *answered = (_turn_texts(row[name]) for name in ("prompt", "response_a", "response_b"))
    if not (len(asked) == len(answered[0]) == len(answered[1])):
        raise NotAPair("malformed", "prompt and answers have different numbers of turns")
    talks = [
        [turn for question, answer in zip(asked, side, strict=True) for turn in (user(question), assistant(answer))]
        for side in answered
    ]
    return _won_conversations(talks, 0 if won[0] else 1)


def _turn_texts(value: Any) -> list[str]:
    """The turns of one side. Null counts as an empty text."""
    turns = json.loads(value) if isinstance(value, str) else value
    if not isinstance(turns, list):
        raise NotAPair("malformed", "expected a list of turns")
    return [turn or "" for turn in turns]


def arena_conversations(row: Row) -> dict[str, Any]:
    """Chatbot Arena with whole conversations and a winner."""
    winner = str(row["winner"])
    if winner.startswith("tie") or winner == "both_bad":
        raise NotAPair("tie", f'"winner" is {winner}')
    if winner not in ("model_a", "model_b"):
        raise NotAPair("malformed", f'"winner" is {shown(winner)}')
    talks = [messages(row[name], "user") for name in ("conversation_a", "conversation_b")]
    return _won_conversations(talks, 0 if winner == "model_a" else 1)


def _won_conversations(talks: list[list[dict[str, Any]]], winner: int) -> dict[str, Any]:
    return {"chosen": talks[winner], "rejected": talks[1 - winner]}
