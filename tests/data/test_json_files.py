"""JSON files are recognised by content, not by name, and written back in the same layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from entangle_cli.data.sources import open_source
from entangle_cli.data.subset import Subset, write_subset
from entangle_cli.errors import DataError
from entangle_cli.records.settings import ReadingSettings

ROWS = [{"prompt": f"p{number}", "chosen": f"c{number}", "rejected": f"r{number}"} for number in range(3)]
FRAME = pandas.DataFrame(ROWS)
TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]

SHAPES: dict[str, str] = {
    "array.jsonl": json.dumps(ROWS, indent=1),
    "array on one line.jsonl": json.dumps(ROWS),
    "pretty objects.jsonl": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "lines.json": "\n".join(map(json.dumps, ROWS)),
    "array.json": json.dumps(ROWS, indent=1),
    "wrapped.json": json.dumps({"version": 1, "data": ROWS}),
    "pandas.json": FRAME.to_json(),
    "pandas.jsonl": FRAME.to_json(),
    "pandas records.json": FRAME.to_json(orient="records"),
    "pandas lines.json": FRAME.to_json(orient="records", lines=True),
    "pandas index.json": FRAME.set_index(pandas.Index(["a", "b", "c"])).to_json(orient="index"),
    "pandas columns of names.json": FRAME.set_index(pandas.Index(["a", "b", "c"])).to_json(),
    "pandas split.json": FRAME.to_json(orient="split"),
    "pandas table.json": FRAME.to_json(orient="table", index=False),
    "lists.json": json.dumps(FRAME.to_dict("list")),
}


def values(path: Path, split: str | None = None) -> list[Any]:
    return [row.value for row in open_source(str(path), ReadingSettings(split=split)).rows()]


@pytest.mark.parametrize("name", SHAPES)
def test_a_file_is_what_it_holds(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(SHAPES[name])
    assert values(tmp_path / name) == ROWS
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + SHAPES[name].encode())
    assert values(tmp_path / name) == ROWS


@pytest.mark.parametrize("name", SHAPES)
def test_kept_rows_are_written_in_the_same_layout(name: str, tmp_path: Path) -> None:
    source, target = tmp_path / name, tmp_path / f"kept {name}"
    source.write_text(SHAPES[name])
    write_subset(open_source(str(source)), target, Subset(lambda index: index != 1))
    assert values(target) == [ROWS[0], ROWS[2]]
    assert open_source(str(target)).kind == open_source(str(source)).kind


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": ROWS, "test": ROWS[:1]}))
    assert values(path, "test") == ROWS[:1]
    assert values(path, "train") == ROWS
    with pytest.raises(DataError, match="several splits"):
        values(path)
    with pytest.raises(DataError, match="no split 'dev'"):
        values(path, "dev")
    write_subset(open_source(str(path), ReadingSettings(split="train")), tmp_path / "b.json", Subset(lambda i: i == 2))
    assert json.loads((tmp_path / "b.json").read_text()) == {"train": ROWS[2:], "test": ROWS[:1]}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK, "rejected_messages": TALK},
        {"chosen": TALK, "rejected": TALK},
        {"prompt": TALK[:1], "chosen": TALK[1:], "rejected": TALK[1:]},
        {"question": "q", "answers": [{"text": "a", "pm_score": 1}, {"text": "b", "pm_score": 0}]},
        {"question": "q", "good": "a", "bad": "b"},
        {"conversations": TALK, "chosen": TALK[1], "rejected": TALK[1]},
    ],
)
def test_one_row_on_one_line_is_a_row(row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = open_source(str(tmp_path / "a.jsonl")).rows()
    assert (found.value, found.line) == (row, 1)


def test_rows_on_one_line_are_named_by_their_number(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS))
    assert [(row.index, row.line) for row in open_source(str(path)).rows()] == [(0, None), (1, None), (2, None)]
    path.write_text(json.dumps(ROWS, indent=1))
    assert [row.line for row in open_source(str(path)).rows()] == [2, 7, 12]


@pytest.mark.parametrize("shape", ["{}\n{}\n", "[{},\n{}]", "{}\n\n{}"])
def test_a_duplicate_key_is_reported(shape: str, tmp_path: Path) -> None:
    twice = '{"chosen": "a", "chosen": "b"}'
    (tmp_path / "a.jsonl").write_text(shape.format(twice, json.dumps(ROWS[0])))
    first, second = open_source(str(tmp_path / "a.jsonl")).rows()
    assert (first.value, first.warnings) == ({"chosen": "b"}, ("W-DUPLICATE-KEY",))
    assert second.warnings == ()


def test_a_broken_first_line_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": \n' + json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1]))
    found = list(open_source(str(tmp_path / "a.jsonl")).rows())
    assert [row.problem is None for row in found] == [False, True, True]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_row_that_ends_too_early_is_broken_at_its_end(tmp_path: Path, ending: str) -> None:
    broken = '{"prompt": "a", "chosen"'
    (tmp_path / "a.jsonl").write_bytes((broken + ending + json.dumps(ROWS[0]) + ending).encode())
    first, _ = open_source(str(tmp_path / "a.jsonl")).rows()
    assert (first.problem or "").startswith(f"broken JSON at column {len(broken) + 1}: ")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("long", [{0}, {1}, {0, 1, 2}])
def test_a_line_that_is_too_long_is_one_row(tmp_path: Path, name: str, long: set[int]) -> None:
    rows = [{"chosen": "x" * (500 if number in long else 5)} for number in range(3)]
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(open_source(str(tmp_path / name), ReadingSettings(max_row_bytes=100)).rows())
    assert [row.value for row in found] == [None if number in long else row for number, row in enumerate(rows)]
    assert {row.problem for row in found if row.value is None} == {
        "more than 100 bytes; --max-row-bytes raises the limit"
    }
