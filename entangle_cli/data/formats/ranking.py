"""Rows with more than two answers: which pairs are made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from typing import Any

from entangle_cli.data.formats.format import NotAPair, RankedAnswer

WAYS = ("best-worst", "adjacent", "all")
"""Which pairs `--ranked` makes: the first and the last, each with the next one, or each with each behind it."""

AnswerPair = tuple[RankedAnswer, RankedAnswer]


def has_several_answers(rewritten: Mapping[str, Any]) -> bool:
    """Whether a rewritten row has more answers than a chosen and a rejected one."""
    return "ranked" in rewritten or "several_rejected" in rewritten


def answer_pairs(rewritten: Mapping[str, Any], way: str) -> list[AnswerPair]:
    """The pairs of a row with several answers, the better one first; see `format.Format.rewrite`.

    Rejected answers without an order among them make no pair with each other: `best-worst` takes the first of them,
    the other ways take each.

    Args:
        way: one of `WAYS`.
    Raises:
        NotAPair: fewer than two answers.
    """
    if "ranked" in rewritten:
        return list(ranked_pairs(rewritten["ranked"], way))
    chosen = RankedAnswer(0, rewritten["chosen"])
    pairs = [(chosen, RankedAnswer(1, answer)) for answer in rewritten["several_rejected"]]
    return pairs[:1] if way == WAYS[0] else pairs


MOST_ANSWERS = 100
"""Of a row, each with each other one: 4,950 pairs."""


def ranked_pairs(answers: list[RankedAnswer], way: str) -> Iterator[AnswerPair]:
    """Pairs of answers, the better one first; two answers of one rank are a pair too, for the caller to refuse.

    Args:
        way: one of `WAYS`.
    Raises:
        NotAPair: fewer than two answers.
    """
    if len(answers) < 2:
        raise NotAPair("malformed", f"{len(answers)} ranked answers where a pair needs two")
    if way == "all" and len(answers) > MOST_ANSWERS:
        raise NotAPair("malformed", f"{len(answers):,} answers; --ranked all takes rows of {MOST_ANSWERS} at most")
    in_order = sorted(answers, key=lambda answer: answer.rank)
    if way == "best-worst":
        yield in_order[0], in_order[-1]
    else:
        yield from pairwise(in_order) if way == "adjacent" else combinations(in_order, 2)
