"""Preference formats that TRL does not take as they are: recognised by their columns, rewritten in TRL's shape."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from entangle_cli.errors import UsageError

Row = Mapping[str, Any]


class RankedAnswer(NamedTuple):
    """An answer and its place."""

    rank: float
    """The smaller, the better."""
    answer: Any


class NotAPair(Exception):
    """A row has the columns of a format, and holds no usable pair.

    Args:
        reason: as in the run document.
        detail: what was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Format:
    """A format: how it is recognised, and how a row becomes one of TRL's."""

    name: str
    """As `--data-format` has it."""
    title: str
    matches: Callable[[Row], bool] | None
    """Whether a row has its columns; None where only the user can tell."""
    rewrite: Callable[[Row], dict[str, Any]]
    """Gives `prompt` (unless the answers hold it), `chosen`, `rejected` and perhaps `tools` and scores; where there are
    more than two answers, `prompt` and `ranked`, a list of `RankedAnswer`.

    Raises:
        NotAPair: a tie, labels that disagree, or columns that do not hold what the format says.
    """


def recognised(row: Row) -> list[Format]:
    """Every format whose columns a row has; none where TRL takes the row as it is."""
    return [] if _is_trls(row) else [known for known in FORMATS if known.matches is not None and known.matches(row)]


def _is_trls(row: Row) -> bool:
    answers = [row.get("chosen"), row.get("rejected")]
    for kind in (str, list):
        if all(isinstance(answer, kind) for answer in answers):
            return row.get("prompt") is None or isinstance(row["prompt"], kind)
    return False


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(row.get(name) is not None for name in names)


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def _is_ultrafeedback(row: Row) -> bool:
    answers = (row.get("chosen"), row.get("rejected"))
    return isinstance(row.get("prompt"), str) and all(isinstance(answer, list) and answer for answer in answers)


def _ultrafeedback(row: Row) -> dict[str, Any]:
    """The answers are whole conversations, and `prompt` repeats their first turn; or the prompt stands alone."""
    first = row["chosen"][0]
    if isinstance(first, dict) and first.get("role") == "assistant":
        return {"prompt": [_user(row["prompt"])], "chosen": row["chosen"], "rejected": row["rejected"]}
    return {"chosen": row["chosen"], "rejected": row["rejected"]}


def _argilla(row: Row) -> dict[str, Any]:
    return {
        "prompt": row.get("instruction") or row.get("prompt") or row.get("input"),
        "chosen": row["chosen_response"],
        "rejected": row["rejected_response"],
    }


def _is_pku(row: Row) -> bool:
    judged = ("better_response_id", "safer_response_id")
    return _has("prompt", "response_0", "response_1")(row) and any(row.get(name) is not None for name in judged)


def _pku(row: Row) -> dict[str, Any]:
    better, safer = row.get("better_response_id"), row.get("safer_response_id")
    if better is not None and safer is not None and better != safer:
        raise NotAPair("labels_disagree", f"better_response_id is {better}, safer_response_id is {safer}")
    return _two_answers(row["prompt"], row["response_0"], row["response_1"], better if better is not None else safer)


def _two_answers(prompt: Any, first: Any, second: Any, chosen: Any) -> dict[str, Any]:
    """Two answers, of which number 0 or 1 is chosen."""
    number = _number(chosen)
    if number not in (0, 1):
        raise NotAPair("malformed", f"{chosen!r} where 0 or 1 names the better answer")
    chosen = int(number)
    answers = (first, second) if chosen == 0 else (second, first)
    return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}


def _by_strength(prompt: Any, first: Any, second: Any, strength: Any) -> dict[str, Any]:
    """Two answers and a number: negative prefers the first, positive the second."""
    number = _number(strength)
    if number is None:
        raise NotAPair("malformed", f"{strength!r} where a number says which answer is preferred")
    if number == 0:
        raise NotAPair("tie", "both answers are preferred alike")
    return {**_two_answers(prompt, first, second, 0 if number < 0 else 1), "preference_strength": abs(number)}


def _number(value: Any) -> float | None:
    """A finite number, also one that stands as text, as in CSV; None for anything else."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _helpsteer3(row: Row) -> dict[str, Any]:
    answers = ([_assistant(row["response1"])], [_assistant(row["response2"])])
    return _by_strength(row["context"], *answers, row["overall_preference"])


def _shp(row: Row) -> dict[str, Any]:
    labels = _number(row["labels"])
    if labels not in (0, 1):
        raise NotAPair("malformed", f'"labels" is {row["labels"]!r}, not 0 or 1')
    pair = _two_answers(row["history"], row["human_ref_A"], row["human_ref_B"], 1 - labels)
    scores = (row.get("score_A"), row.get("score_B"))
    chosen, rejected = scores if labels == 1 else scores[::-1]
    return {**pair, "chosen_score": chosen, "rejected_score": rejected, "preference_strength": row.get("score_ratio")}


SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "tool call",
}


def sharegpt_message(
    turn: Any, roles: Mapping[str, str] = SHAREGPT_ROLES, role_tag: str = "from", content_tag: str = "value"
) -> dict[str, Any]:
    """A turn in ShareGPT's words as a message.

    Args:
        roles: its roles to those of a chat template; `tool call` is an assistant's.
    Raises:
        NotAPair: a turn of nobody known.
    """
    role = turn.get(role_tag, turn.get("role")) if isinstance(turn, dict) else None
    if not isinstance(role, str) or role not in roles:
        raise NotAPair("malformed", f"a turn from {role!r}; known are {', '.join(roles)}")
    content = turn.get(content_tag, turn.get("content"))
    if roles[role] == "tool call":
        return {"role": "assistant", "tool_calls": [{"type": "function", "function": json.loads(content)}]}
    return {"role": roles[role], "content": content}


def _is_sharegpt(row: Row) -> bool:
    is_answer = all(isinstance(row.get(name), dict) for name in ("chosen", "rejected"))
    return is_answer and isinstance(_turns(row), list)


def _turns(row: Row) -> Any:
    return row.get("conversations", row.get("messages"))


def _sharegpt(row: Row) -> dict[str, Any]:
    prompt = [sharegpt_message(turn) for turn in _turns(row)]
    if row.get("system"):
        prompt = [{"role": "system", "content": row["system"]}, *prompt]
    return {
        "prompt": prompt,
        "chosen": [sharegpt_message(row["chosen"])],
        "rejected": [sharegpt_message(row["rejected"])],
    }


def _is_openai(row: Row) -> bool:
    has_answers = _has("preferred_output", "non_preferred_output")(row)
    return has_answers and isinstance(row.get("input"), dict) and isinstance(row["input"].get("messages"), list)


def _openai(row: Row) -> dict[str, Any]:
    found = {
        "prompt": row["input"]["messages"],
        "chosen": row["preferred_output"],
        "rejected": row["non_preferred_output"],
    }
    return {**found, "tools": row["input"]["tools"]} if row["input"].get("tools") else found


def _ranked(prompt: Any, answers: Any) -> dict[str, Any]:
    return {"prompt": prompt, "ranked": [RankedAnswer(_rank(each), each["answer"]) for each in answers]}


def _nemo(row: Row) -> dict[str, Any]:
    answers = [RankedAnswer(_rank(each), each["completion"]) for each in row["completions"]]
    return {"prompt": row["context"], "ranked": answers}


def _rank(answer: Any) -> float:
    rank = _number(answer["rank"])
    if rank is None:
        raise NotAPair("malformed", f"a rank {answer['rank']!r} where a number was expected")
    return rank


def _summarize(row: Row) -> dict[str, Any]:
    info, summaries = row["info"], row["summaries"]
    texts = [summary.get("text") if isinstance(summary, dict) else None for summary in summaries]
    if not isinstance(info, dict) or len(texts) != 2:
        raise NotAPair("malformed", f'"info" and two "summaries" were expected; found {len(texts)}')
    if info.get("post") is not None:
        prompt = f"SUBREDDIT: r/{info.get('subreddit')}\nTITLE: {info.get('title')}\nPOST: {info['post']}\nTL;DR:"
    elif info.get("article") is not None:
        prompt = f"ARTICLE: {info['article']}\nTL;DR:"
    else:
        raise NotAPair("malformed", '"info" has neither a post nor an article')
    first, second = (f" {text.strip()}" if text else text for text in texts)
    return _two_answers(prompt, first, second, row["choice"])


def _pku_by(label: str) -> Callable[[Row], dict[str, Any]]:
    """PKU-SafeRLHF by one of its two labels."""
    return lambda row: _two_answers(row["prompt"], row["response_0"], row["response_1"], row[label])


def _orca(row: Row) -> dict[str, Any]:
    """System, question and two answers; TRL would train on the answers alone, without the question."""
    question = row["question"] if row.get("question") is not None else row["input"]
    if row.get("status") == "tie":
        raise NotAPair("tie", '"status" is tie')
    return chat(row.get("system"), question, row["chosen"], row["rejected"])


def _alpaca(row: Row) -> dict[str, Any]:
    """LLaMA-Factory's: instruction and input are one turn, earlier ones in `history`."""
    prompt = alpaca_prompt(row["instruction"], row.get("input"), row.get("history"))
    return chat(row.get("system"), prompt, row["chosen"], row["rejected"])


def alpaca_prompt(instruction: Any, further: Any, history: Any) -> list[dict[str, Any]]:
    """Earlier turns, and one of the user that is the instruction and what goes with it."""
    turns = [turn for asked, answered in history or [] for turn in (_user(asked), _assistant(answered))]
    return [*turns, _user("\n".join(text for text in (instruction, further) if text))]


def chat(system: Any, prompt: Any, chosen: Any, rejected: Any) -> dict[str, Any]:
    """A conversation: a system's message if there is any, the user's turn or several turns, and the answers' texts."""
    before = [{"role": "system", "content": system}] if system else []
    return {
        "prompt": [*before, *(prompt if isinstance(prompt, list) else [_user(prompt)])],
        "chosen": [_assistant(chosen)],
        "rejected": [_assistant(rejected)],
    }


ASSISTANT_TURN = "\n\nAssistant:"


def _hh(row: Row) -> dict[str, Any]:
    """hh-rlhf by turns: the answers are what follows the last `Assistant:` that both transcripts share."""
    chosen, rejected = row["chosen"], row["rejected"]
    shared = next((place for place, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), len(chosen))
    start = chosen.rfind(ASSISTANT_TURN, 0, shared)
    if start < 0:
        raise NotAPair("malformed", "the transcripts share no turn of an assistant")
    end = start + len(ASSISTANT_TURN)
    return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}


FORMATS = (
    Format(
        "ultrafeedback", "UltraFeedback, the prompt repeated in both conversations", _is_ultrafeedback, _ultrafeedback
    ),
    Format(
        "argilla",
        "argilla, chosen_response and rejected_response",
        _has("chosen_response", "rejected_response"),
        _argilla,
    ),
    Format("pku", "PKU-SafeRLHF", _is_pku, _pku),
    Format(
        "helpsteer2",
        "HelpSteer2 preference",
        _has("prompt", "response_1", "response_2", "preference_strength"),
        lambda row: _by_strength(row["prompt"], row["response_1"], row["response_2"], row["preference_strength"]),
    ),
    Format(
        "helpsteer3",
        "HelpSteer3 preference",
        _has("context", "response1", "response2", "overall_preference"),
        _helpsteer3,
    ),
    Format("shp", "SHP", _has("history", "human_ref_A", "human_ref_B", "labels"), _shp),
    Format("sharegpt", "conversation with one turn a side (LLaMA-Factory sharegpt, Axolotl)", _is_sharegpt, _sharegpt),
    Format("openai", "OpenAI preference fine-tuning", _is_openai, _openai),
    Format(
        "nectar",
        "Nectar, ranked answers",
        _has("prompt", "answers"),
        lambda row: _ranked(row["prompt"], row["answers"]),
    ),
    Format("nemo-rl", "NeMo-RL, ranked completions", _has("context", "completions"), _nemo),
    Format("summarize", "summarize-from-feedback comparisons", _has("info", "summaries", "choice"), _summarize),
    Format("pku-better", "PKU-SafeRLHF by better_response_id", None, _pku_by("better_response_id")),
    Format("pku-safer", "PKU-SafeRLHF by safer_response_id", None, _pku_by("safer_response_id")),
    Format("hh", "hh-rlhf transcript, split at its turns", None, _hh),
    Format("orca", "Orca, system and question", None, _orca),
    Format("alpaca", "LLaMA-Factory alpaca", None, _alpaca),
)
"""The last ones are taken only when named: TRL takes their rows as they are, if not as they are meant."""


def named(name: str) -> Format | None:
    """The format of `--data-format`; None for `trl`, which rewrites nothing.

    Raises:
        UsageError: there is none of that name.
    """
    if name == TRL:
        return None
    by_name = {known.name: known for known in FORMATS}
    if name not in by_name:
        near = difflib.get_close_matches(name, [TRL, *by_name], n=1)
        raise UsageError(
            f"--data-format {name}",
            f"one of {', '.join([TRL, *by_name])}",
            f"did you mean {near[0]}?" if near else "choose one of these, or leave it out",
        )
    return by_name[name]


TRL = "trl"
"""Takes every row as TRL would."""
