"""Rows with more than two answers in order: which pairs are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

from entangle_cli.data.formats import NotAPair, RankedAnswer

WAYS = ("best-worst", "adjacent", "all")
"""Which pairs `--ranked` makes: the first and the last, each with the next one, or each with each behind it."""


def ranked_pairs(answers: list[RankedAnswer], way: str) -> Iterator[tuple[RankedAnswer, RankedAnswer]]:
    """Pairs of answers, the better one first; answers of one rank are a pair too, and the caller's to refuse.

    Args:
        way: one of `WAYS`.
    Raises:
        NotAPair: fewer than two answers.
    """
    if len(answers) < 2:
        raise NotAPair("malformed", f"{len(answers)} ranked answers where a pair needs two")
    in_order = sorted(answers, key=lambda answer: answer.rank)
    if way == "best-worst":
        yield in_order[0], in_order[-1]
    else:
        yield from pairwise(in_order) if way == "adjacent" else combinations(in_order, 2)
