"""Rows with more than two answers: the resulting pairs and their numbers."""

from __future__ import annotations

from typing import Any

import pytest

from entangle_cli.data.pairs import PairReader, PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.errors import UsageError
from entangle_cli.records.pair import row_key
from entangle_cli.records.settings import ReadingSettings


def ranked(way: str, *ranks: Any) -> list[PreferencePair | SkippedRow]:
    answers = [{"answer": f"{rank}, {place}", "rank": rank} for place, rank in enumerate(ranks)]
    return PairReader(ReadingSettings(ranked=way)).read(RawRow(4, {"prompt": "q", "answers": answers}))


def answers(found: list[PreferencePair | SkippedRow]) -> list[Any]:
    return [(pair.chosen[0], pair.rejected[0]) if isinstance(pair, PreferencePair) else pair.reason for pair in found]


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("best-worst", [("1", "4")]),
        ("adjacent", [("1", "2"), ("2", "3"), ("3", "4")]),
        ("all", [("1", "2"), ("1", "3"), ("1", "4"), ("2", "3"), ("2", "4"), ("3", "4")]),
    ],
)
def test_pairs_by_way(way: str, expected: list[tuple[str, str]]) -> None:
    found = ranked(way, 3, 1, 4, 2)
    assert answers(found) == expected
    numbers = [None] if way == "best-worst" else list(range(len(expected)))
    assert [pair.pair_in_row for pair in found] == numbers
    assert len({row_key(pair) for pair in found}) == len(expected)


def test_answers_of_one_rank_are_a_tie() -> None:
    assert answers(ranked("adjacent", 1, 2, 2)) == [("1", "2"), "tie"]
    assert answers(ranked("best-worst", 1, 1)) == ["tie"]


def test_how_far_apart_they_are_is_kept() -> None:
    found = ranked("all", 1, 5)
    assert isinstance(found[0], PreferencePair)
    assert found[0].preference_strength == 4


@pytest.mark.parametrize("ranks", [(), (1,), (1, None), (1, True), (1, float("nan")), (1, "second"), (1, 10**400)])
def test_invalid_rankings_have_a_reason(ranks: tuple[Any, ...]) -> None:
    (found,) = ranked("all", *ranks)
    assert isinstance(found, SkippedRow)
    assert found.reason == "malformed"


def test_one_broken_answer_leaves_the_other_pairs() -> None:
    row = {"prompt": "q", "answers": [{"answer": text, "rank": rank} for rank, text in enumerate(("a", None, "c"))]}
    found = PairReader(ReadingSettings(ranked="all")).read(RawRow(0, row))
    assert answers(found) == ["null", ("a", "c"), "null"]


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(UsageError, match="--ranked worst"):
        PairReader(ReadingSettings(ranked="worst"))


def test_rejected_answers_without_an_order_make_no_pair_with_each_other() -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": ["b", "c"]}
    every = [("a", "b"), ("a", "c")]
    for way, expected in (("best-worst", every[:1]), ("adjacent", every), ("all", every)):
        assert answers(PairReader(ReadingSettings(ranked=way)).read(RawRow(0, row))) == expected
