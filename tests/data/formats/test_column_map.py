"""`--map`: rows of unknown formats, with columns named by the user."""

from __future__ import annotations

from typing import Any

import pytest

from entangle_cli.data.formats.column_map import suggested_map
from entangle_cli.data.pairs import PairReader, PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import ReadingSettings

ROW = {"ask": "2+2?", "good": "4", "bad": "5", "sys": "Be brief.", "meta": {"by": {"judge": 3}, "turns": [{"a": 1}]}}


def read(columns: dict[str, str], row: dict[str, Any] = ROW) -> PreferencePair | SkippedRow:
    (found,) = PairReader(ReadingSettings(columns=columns)).read(RawRow(0, row, 1))
    return found


def test_strings_stay_strings() -> None:
    found = read({"prompt": "ask", "chosen": "good", "rejected": "bad", "chosen_score": "meta.by.judge"})
    assert isinstance(found, PreferencePair)
    assert (found.prompt, found.chosen, found.rejected) == ("2+2?", "4", "5")
    assert (found.format, found.chosen_score, found.rejected_score) == ("columns named by --map", 3, None)


def test_a_system_message_makes_it_a_conversation() -> None:
    found = read({"prompt": "ask", "chosen": "good", "rejected": "bad", "system": "sys"})
    assert isinstance(found, PreferencePair)
    assert found.prompt == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    assert (found.chosen, found.rejected) == (
        [{"role": "assistant", "content": "4"}],
        [{"role": "assistant", "content": "5"}],
    )


def test_columns_that_trl_would_take_are_read_as_they_are_mapped() -> None:
    found = read({"chosen": "rejected", "rejected": "chosen"}, {"chosen": "ab", "rejected": "ac"})
    assert isinstance(found, PreferencePair)
    assert (found.prompt, found.chosen, found.rejected) == ("a", "c", "b")


def test_a_missing_column_names_those_there_are() -> None:
    found = read({"chosen": "best", "rejected": "bad"})
    assert isinstance(found, SkippedRow)
    assert found.detail == "no column 'best'; columns: ask, good, bad, sys, meta"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ReadingSettings(columns={"choosen": "a", "rejected": "b"}),
            r"no role 'choosen'[\s\S]*did you mean --map chosen=a",
        ),
        (ReadingSettings(columns={"chosen": "a", "rejected": "a"}), "two different columns"),
        (ReadingSettings(columns={"chosen": "a"}), "gives no column for rejected"),
        (ReadingSettings(columns={"chosen": "a", "rejected": "b"}, data_format="orca"), "--map and --data-format"),
    ],
)
def test_invalid_maps_are_refused(settings: ReadingSettings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PairReader(settings)


TURN, OTHER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "Well?"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("4", "5"))


ASK = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("columns", "row", "expected"),
    [
        (ASK, {"p": [TURN], "a": "4", "b": "5"}, ([TURN], [GOOD], [BAD])),
        (ASK, {"p": "2+2?", "a": GOOD, "b": BAD}, ([TURN], [GOOD], [BAD])),
        (
            ASK,
            {"p": "2+2?", "a": [GOOD], "b": "5"},
            ([TURN], [GOOD], [BAD]),
        ),
        (
            ASK,
            {
                "p": [{"from": "human", "content": "2+2?"}],
                "a": {"from": "gpt", "value": "4"},
                "b": [{"from": "gpt", "content": "5"}],
            },
            ([TURN], [GOOD], [BAD]),
        ),
        # The chosen conversation is complete. The rejected answer replaces its last turn.
        ({"chosen": "m", "rejected": "r"}, {"m": [TURN, GOOD], "r": "5"}, ([TURN], [GOOD], [BAD])),
        ({"chosen": "m", "rejected": "r"}, {"m": [TURN, GOOD], "r": BAD}, ([TURN], [GOOD], [BAD])),
        # Both are complete. The prompt is their shared part, given or not.
        ({"chosen": "a", "rejected": "b"}, {"a": [TURN, GOOD], "b": [TURN, BAD]}, ([TURN], [GOOD], [BAD])),
        (
            ASK,
            {"p": [TURN], "a": [TURN, GOOD], "b": [TURN, BAD]},
            ([TURN], [GOOD], [BAD]),
        ),
        # Paths can enter objects and lists.
        (
            {"prompt": "q.text", "chosen": "o.0", "rejected": "o.-1"},
            {"q": {"text": "Q"}, "o": ["4", "5"]},
            ("Q", "4", "5"),
        ),
        (
            {"prompt": "m.0", "chosen": "m.1.content", "rejected": "r"},
            {"m": [TURN, GOOD], "r": "5"},
            ([TURN], [GOOD], [BAD]),
        ),
    ],
)
def test_whatever_a_column_holds_is_read(columns: dict[str, str], row: dict[str, Any], expected: Any) -> None:
    found = read(columns, row)
    assert isinstance(found, PreferencePair), found
    assert (found.prompt, found.chosen, found.rejected) == expected


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        ({"a": [TURN], "b": "5"}, "malformed", "give its column with --map prompt=COLUMN"),
        ({"a": None, "b": "5"}, "null", '"a" is null'),
        ({"a": 4, "b": "5"}, "malformed", "a int where a text"),
        ({"a": [{"from": "nobody", "value": "x"}, GOOD], "b": "5"}, "malformed", "unknown role 'nobody'"),
    ],
)
def test_what_holds_no_pair_says_why(row: dict[str, Any], reason: str, words: str) -> None:
    found = read({"chosen": "a", "rejected": "b"}, row)
    assert isinstance(found, SkippedRow)
    assert found.reason == reason
    assert words in found.detail


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            ["question", "good_answer", "bad_answer"],
            "--map prompt=question --map chosen=good_answer --map rejected=bad_answer",
        ),
        (["input", "accepted", "rejected", "ID"], "--map prompt=input --map chosen=accepted --map rejected=rejected"),
        (["preferred", "dispreferred"], "--map chosen=preferred --map rejected=dispreferred"),
        (["x", "y"], "--map prompt=COLUMN --map chosen=COLUMN --map rejected=COLUMN"),
    ],
)
def test_columns_suggest_a_map(columns: list[str], words: str) -> None:
    assert suggested_map(columns) == words
