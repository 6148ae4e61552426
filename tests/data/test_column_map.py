"""`--map`: rows of no known format, by what the user says of their columns."""

from __future__ import annotations

from typing import Any

import pytest

from entangle_cli.data.pairs import PairReader, PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.errors import UsageError
from entangle_cli.records import ReadingSettings

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
    assert found.detail == "no column best; columns: ask, good, bad, sys, meta"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ReadingSettings(columns={"choosen": "a", "rejected": "b"}), r"no role 'choosen'[\s\S]*did you mean chosen"),
        (ReadingSettings(columns={"chosen": "a", "rejected": "b", "system": "s"}), "without a prompt"),
        (ReadingSettings(columns={"chosen": "a"}), "names no column for rejected"),
        (ReadingSettings(columns={"chosen": "a", "rejected": "b"}, data_format="orca"), "--map and --data-format"),
    ],
)
def test_maps_that_cannot_be_are_refused(settings: ReadingSettings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PairReader(settings)
