"""`dataset_info.json` beside a file: what it says of the columns is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from entangle_cli.data.pairs import PairReader, PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.errors import DataError

USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "2+2?"), ("assistant", "4"), ("assistant", "5"))
)


def read(folder: Path, entry: Any, row: dict[str, Any]) -> PreferencePair | SkippedRow:
    (folder / "dataset_info.json").write_text(json.dumps({"other": {"file_name": "b.json"}, "mine": entry}))
    (found,) = PairReader(None, [folder / "a.json"]).read(RawRow(0, row))
    return found


def test_alpaca_by_its_columns(tmp_path: Path) -> None:
    columns = {
        "prompt": "ask",
        "query": "more",
        "chosen": "good",
        "rejected": "bad",
        "system": "sys",
        "history": "past",
    }
    row = {"ask": "Add.", "more": "2+2", "good": "4", "bad": "5", "sys": "Be brief.", "past": [["Hi", "Hey"]]}
    found = read(tmp_path, {"file_name": "a.json", "ranking": True, "columns": columns}, row)
    assert isinstance(found, PreferencePair), found
    assert found.prompt == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hey"},
        {"role": "user", "content": "Add.\n2+2"},
    ]
    assert (found.chosen, found.rejected) == ([GOOD], [BAD])
    assert found.format == "LLaMA-Factory alpaca, mine of dataset_info.json"


def test_alpaca_by_default_columns_where_trl_would_see_no_prompt(tmp_path: Path) -> None:
    row = {"instruction": "2+2?", "input": "", "chosen": "4", "rejected": "5"}
    found = read(tmp_path, {"file_name": "a.json", "ranking": True}, row)
    assert isinstance(found, PreferencePair), found
    assert (found.prompt, found.chosen, found.rejected) == ([USER], [GOOD], [BAD])
    assert found.warnings == ()


def test_sharegpt_by_its_tags(tmp_path: Path) -> None:
    entry = {
        "file_name": "a.json",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "chosen": "good", "rejected": "bad", "system": "sys", "tools": "can"},
        "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "you"},
    }
    row = {
        "talk": [{"who": "me", "says": "2+2?"}],
        "good": {"who": "you", "says": "4"},
        "bad": {"who": "you", "says": "5"},
        "sys": "",
        "can": '[{"name": "add"}]',
    }
    found = read(tmp_path, entry, row)
    assert isinstance(found, PreferencePair), found
    assert (found.prompt, found.chosen, found.rejected) == ([USER], [GOOD], [BAD])
    assert found.tools == [{"name": "add"}]
    broken = read(tmp_path, entry, {**row, "bad": {"who": "nobody", "says": "5"}})
    assert isinstance(broken, SkippedRow)
    assert broken.detail.startswith("a turn from 'nobody'")


def test_files_that_it_does_not_name_are_read_as_ever(tmp_path: Path) -> None:
    found = read(tmp_path, {"file_name": "c.json"}, {"prompt": "2+2?", "chosen": "4", "rejected": "5"})
    assert isinstance(found, PreferencePair)
    assert found.format == "TRL standard"


def test_what_has_no_ranking_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="mine has no ranking"):
        read(tmp_path, {"file_name": "a.json"}, {})


def test_a_description_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset_info\.json"):
        PairReader(None, [tmp_path / "a.json"])


def test_a_column_that_is_described_and_not_there_is_malformed(tmp_path: Path) -> None:
    for columns in ({"prompt": "nope"}, {"system": "nope"}, {"query": "nope"}):
        entry = {"file_name": "a.json", "ranking": True, "columns": columns}
        found = read(tmp_path, entry, {"instruction": "2+2?", "chosen": "4", "rejected": "5"})
        assert isinstance(found, SkippedRow)
        assert found.detail.endswith("no column 'nope'")
