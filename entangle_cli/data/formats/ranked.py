"""Formats with several ranked answers, or one chosen and several rejected answers."""

from __future__ import annotations

from typing import Any

from entangle_cli.data.formats.conversations import assistant
from entangle_cli.data.formats.format import NotAPair, RankedAnswer, Row, finite_number, shown
from entangle_cli.data.formats.questions import alpaca_prompt


def nectar(row: Row) -> dict[str, Any]:
    """Nectar: answers with their ranks."""
    answers = [RankedAnswer(_number(each, "rank"), each["answer"]) for each in row["answers"]]
    return {"prompt": row["prompt"], "ranked": answers}


def nemo(row: Row) -> dict[str, Any]:
    """NeMo-RL: completions with their ranks."""
    answers = [RankedAnswer(_number(each, "rank"), each["completion"]) for each in row["completions"]]
    return {"prompt": row["context"], "ranked": answers}


def is_stack_exchange(row: Row) -> bool:
    """Whether a row has the columns of the stack-exchange preferences."""
    return row.get("question") is not None and _are_objects(row.get("answers"), "text", "pm_score")


def stack_exchange(row: Row) -> dict[str, Any]:
    """Stack-exchange preferences: answers ranked by `pm_score`, higher is better."""
    answers = [RankedAnswer(-_number(each, "pm_score"), each["text"]) for each in row["answers"]]
    return {"prompt": row["question"], "ranked": answers}


def is_raw_ultrafeedback(row: Row) -> bool:
    """Whether a row has the columns of UltraFeedback before binarisation."""
    return row.get("instruction") is not None and _are_objects(row.get("completions"), "response")


def raw_ultrafeedback(row: Row) -> dict[str, Any]:
    """UltraFeedback's completions ranked by `fine-grained_score`, or by `overall_score` if a completion lacks it.

    argilla found errors in `overall_score`. It binarised by the mean of the aspect ratings, which is
    `fine-grained_score`.
    """
    name = "fine-grained_score"
    if any(finite_number(each.get(name)) is None for each in row["completions"]):
        name = "overall_score"
    answers = [RankedAnswer(-_number(each, name), [assistant(each["response"])]) for each in row["completions"]]
    return {"prompt": alpaca_prompt(row["instruction"], None, None), "ranked": answers}


def is_scored(row: Row) -> bool:
    """Whether a row was joined from adjacent ones; see `adjacent`."""
    return _are_objects(row.get("scored"), "answer", "helpfulness")


def scored(row: Row) -> dict[str, Any]:
    """The answers of adjacent rows ranked by helpfulness, higher is better."""
    answers = [RankedAnswer(-_number(each, "helpfulness"), each["answer"]) for each in row["scored"]]
    return {"prompt": row["prompt"], "ranked": answers}


def is_output_list(row: Row) -> bool:
    """Whether the answers are a list of texts, best first."""
    return row.get("instruction") is not None and _are_texts(row.get("output"))


def output_list(row: Row) -> dict[str, Any]:
    """LLaMA-Factory's older ranking files: `output` is a list, best answer first."""
    answers = [RankedAnswer(rank, [assistant(text)]) for rank, text in enumerate(row["output"])]
    return {"prompt": alpaca_prompt(row["instruction"], row.get("input"), row.get("history")), "ranked": answers}


def is_several_rejected(row: Row) -> bool:
    """Whether a row has one chosen text and a list of rejected texts."""
    return isinstance(row.get("chosen"), str) and _are_texts(row.get("rejected"), fewest=1)


def several_rejected(row: Row) -> dict[str, Any]:
    """One chosen answer and several unordered rejected ones."""
    answers = {"chosen": row["chosen"], "several_rejected": row["rejected"]}
    return answers if row.get("prompt") is None else {"prompt": row["prompt"], **answers}


def _are_objects(value: Any, *names: str) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and all(name in each for name in names) for each in value)
    )


def _are_texts(value: Any, fewest: int = 2) -> bool:
    return isinstance(value, list) and len(value) >= fewest and all(isinstance(each, str) for each in value)


def _number(answer: Any, name: str) -> float:
    number = finite_number(answer[name])
    if number is None:
        raise NotAPair("malformed", f"{name} is {shown(answer[name])} where a number was expected")
    return number
