"""`dataset_info.json` next to a file: its description of the columns takes precedence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from entangle_cli.data.formats.format import NotAPair
from entangle_cli.data.formats.llama_factory import described_format
from entangle_cli.data.pairs import PairReader, PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.data.sources import open_source
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
    assert broken.detail == "a turn with role 'nobody', which is not in the description's tags"


def test_files_it_does_not_list_are_read_as_usual(tmp_path: Path) -> None:
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
    answers = {"chosen": "chosen", "rejected": "rejected"}
    for columns in ({"prompt": "nope"}, {"system": "nope"}, {"query": "nope"}):
        entry = {"file_name": "a.json", "ranking": True, "columns": {**answers, **columns}}
        found = read(tmp_path, entry, {"instruction": "2+2?", "chosen": "4", "rejected": "5"})
        assert isinstance(found, SkippedRow)
        assert found.detail.endswith("no column 'nope'")


CASES = json.loads((Path(__file__).parent / "llama_factory_cases.json").read_text())
"""Made-up descriptions and rows with what LLaMA-Factory 0.9.5 made of them: its parser, its converters and its pairwise
processor were run on each. `kept`, `dropped` in silence, or an `error` that ends the whole data set."""


def as_message(message: dict[str, Any]) -> dict[str, Any]:
    """A LLaMA-Factory message in the form that a chat template expects."""
    if message["role"] != "function":
        return {**message, "role": {"observation": "tool"}.get(message["role"], message["role"])}
    calls = json.loads(message["content"])
    calls = calls if isinstance(calls, list) else [calls]
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": call} for call in calls]}


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_rows_are_read_as_llama_factory_reads_them(case: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": case["entry"]}))
    path = tmp_path / case["entry"]["file_name"]
    if case["outcome"] != "kept":
        with pytest.raises((DataError, NotAPair, KeyError, TypeError, ValueError)):
            rewritten(path, case["row"])
        return
    system = [{"role": "system", "content": case["system"]}] if case["system"] else []
    found = rewritten(path, case["row"])
    assert found["prompt"] == system + [as_message(message) for message in case["prompt"]]
    assert found["chosen"] == [as_message(case["chosen"])]
    assert found["rejected"] == [as_message(case["rejected"])]


def rewritten(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    described = described_format(path)
    assert described is not None
    return described.format.rewrite(row)


ALPACA = {"ranking": True, "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}}
ROW = {"instruction": "2+2?", "input": "not read", "chosen": "4", "rejected": "5"}


@pytest.mark.parametrize("named", ["file", "folder", "pattern", "folder that an entry names"])
def test_a_file_is_read_alike_however_it_is_found(named: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps([ROW]))
    above = named == "folder that an entry names"
    entry = {**ALPACA, "file_name": "data" if above else "a.json"}
    (folder.parent if above else folder).joinpath("dataset_info.json").write_text(json.dumps({"mine": entry}))
    name = {"file": folder / "a.json", "pattern": folder / "*.json"}.get(named, folder)
    source = open_source(str(name))
    assert source.num_rows == 1
    (found,) = PairReader(None, source.files).read(next(iter(source.rows())))
    assert isinstance(found, PreferencePair), found
    assert (found.prompt, found.chosen, found.rejected) == ([USER], [GOOD], [BAD])


def test_entries_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    other = {**ALPACA, "columns": {**ALPACA["columns"], "query": "input"}, "file_name": "a.json"}
    entries = {"one": {**ALPACA, "file_name": "a.json"}, "two": other}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match="one and two describe the same file in different ways"):
        described_format(tmp_path / "a.json")
    entries["two"] = {**entries["one"], "subset": "x"}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    assert described_format(tmp_path / "a.json") is not None
