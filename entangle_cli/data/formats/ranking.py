"""Pairs from rows with more than two answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from typing import Any

from entangle_cli.data.formats.format import NotAPair, RankedAnswer

WAYS = ("best-worst", "adjacent", "all")
"""Values of `--ranked`: first and last answer, each answer with the next, or each answer with all lower ones."""

AnswerPair = tuple[RankedAnswer, RankedAnswer]


def has_several_answers(rewritten: Mapping[str, Any]) -> bool:
    """Whether a rewritten row has ranked answers or several rejected ones."""
    return "ranked" in rewritten or "several_rejected" in rewritten


def answer_pairs(rewritten: Mapping[str, Any], way: str) -> list[AnswerPair]:
    """The pairs of a row with several answers, the better answer first; see `format.Format.rewrite`.

    Unordered rejected answers form no pairs with each other. `best-worst` uses only the first of them, the other ways
    use all.

    Args:
        way: one of `WAYS`.
    Raises:
        NotAPair: there are fewer than two answers, or more than `MOST_ANSWERS` with `all`.
    """
    if "ranked" in rewritten:
        return list(ranked_pairs(rewritten["ranked"], way))
    chosen = RankedAnswer(0, rewritten["chosen"])
    pairs = [(chosen, RankedAnswer(1, answer)) for answer in rewritten["several_rejected"]]
    return pairs[:1] if way == WAYS[0] else pairs


MOST_ANSWERS = 100
"""Limit on the answers of a row with `--ranked all`; 100 answers give 4,950 pairs."""


def ranked_pairs(answers: list[RankedAnswer], way: str) -> Iterator[AnswerPair]:
    """Pairs of ranked answers, the better answer first. The caller must refuse pairs with equal ranks.

    Args:
        way: one of `WAYS`.
    Raises:
        NotAPair: there are fewer than two answers, or more than `MOST_ANSWERS` with `all`.
    """
    if len(answers) < 2:
        raise NotAPair("malformed", f"too few ranked answers for a pair: {len(answers)}")
    if way == "all" and len(answers) > MOST_ANSWERS:
        raise NotAPair("malformed", f"{len(answers):,} answers; --ranked all allows at most {MOST_ANSWERS} per row")
    in_order = sorted(answers, key=lambda answer: answer.rank)
    if way == "best-worst":
        yield in_order[0], in_order[-1]
    else:
        yield from pairwise(in_order) if way == "adjacent" else combinations(in_order, 2)
