"""Every kind of source: rows, their positions, and the refusal of broken files."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import json
import lzma
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entangle_cli.data import compression, json_text
from entangle_cli.data.pairs import PairReader
from entangle_cli.data.rows import RawRow, RowSource
from entangle_cli.data.sources import open_source
from entangle_cli.errors import DataError, ExitCode
from entangle_cli.records.settings import LARGEST_ROW, ReadingSettings

Row = dict[str, Any]

CHAT: list[Row] = [
    {
        "prompt": [{"role": "user", "content": f"Is {number} even?\nSay it."}],
        "chosen": [{"role": "assistant", "content": 'Yes, "it" is.'}],
        "rejected": [{"role": "assistant", "content": "No; é🙂\u2028 it\tis not."}],
    }
    for number in range(3)
]

TEXT: list[Row] = [
    {"prompt": "2+2=", "chosen": "4", "rejected": "5"},
    {"prompt": "two\nlines", "chosen": 'with, "quotes"', "rejected": "\ttab"},
    {"prompt": "é🙂\u2028\x85", "chosen": "x" * 300_000, "rejected": "[not JSON"},
]


def as_lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_delimited(path: Path, rows: Sequence[Row], delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow([cell if isinstance(cell, str) else json.dumps(cell) for cell in row.values()])


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def write_arrow(path: Path, rows: Sequence[Row], writer: Callable[..., Any]) -> None:
    table = pa.Table.from_pylist(list(rows))
    with writer(str(path), table.schema) as file:
        file.write_table(table)


def two_frames(content: bytes) -> bytes:
    """A file as written by parallel compressors."""
    half = len(content) // 2
    return b"".join(pa.compress(part, codec="zstd", asbytes=True) for part in (content[:half], content[half:]))


WRITERS: dict[str, Callable[[Path, Sequence[Row]], object]] = {
    "a.jsonl": lambda path, rows: path.write_bytes(as_lines(rows)),
    "a.NDJSON": lambda path, rows: path.write_bytes(as_lines(rows)),
    "a.json": lambda path, rows: path.write_text(json.dumps(rows, indent=2)),
    "wrapped.json": lambda path, rows: path.write_text(json.dumps({"version": 1, "data": rows})),
    "lines.json": lambda path, rows: path.write_bytes(as_lines(rows)),
    "a.csv": lambda path, rows: write_delimited(path, rows, ","),
    "a.tsv": lambda path, rows: write_delimited(path, rows, "\t"),
    "a.parquet": write_parquet,
    "a.arrow": lambda path, rows: write_arrow(path, rows, pa.ipc.new_file),
    "stream.arrow": lambda path, rows: write_arrow(path, rows, pa.ipc.new_stream),
    "a.jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(as_lines(rows))),
    "a.json.bz2": lambda path, rows: path.write_bytes(bz2.compress(json.dumps(rows).encode())),
    "wrapped.json.gz": lambda path, rows: path.write_bytes(gzip.compress(json.dumps({"data": rows}).encode())),
    "a.JSONL.xz": lambda path, rows: path.write_bytes(lzma.compress(as_lines(rows))),
    "a.jsonl.zst": lambda path, rows: path.write_bytes(two_frames(as_lines(rows))),
    "saved": lambda path, rows: datasets.Dataset.from_list(list(rows)).save_to_disk(path),
}

KINDS = {
    "a.jsonl": "JSON lines",
    "a.NDJSON": "JSON lines",
    "a.json": "JSON array",
    "wrapped.json": "JSON, wrapped",
    "lines.json": "JSON lines",
    "a.csv": "CSV",
    "a.tsv": "CSV",
    "a.parquet": "Parquet",
    "a.arrow": "Arrow",
    "stream.arrow": "Arrow",
    "a.jsonl.gz": "JSON lines",
    "a.json.bz2": "JSON array",
    "wrapped.json.gz": "JSON, wrapped",
    "a.JSONL.xz": "JSON lines",
    "a.jsonl.zst": "JSON lines",
    "saved": "saved data set",
}


@pytest.fixture(autouse=True)
def no_bars() -> None:
    datasets.disable_progress_bars()


def source_of(folder: Path, name: str, content: bytes) -> RowSource:
    path = folder / name
    path.write_bytes(content)
    return open_source(str(path))


def problems(source: RowSource) -> list[str | None]:
    return [row.problem for row in source.rows()]


@pytest.mark.parametrize("rows", [CHAT, TEXT], ids=["messages", "text"])
@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_gives_the_rows_that_were_written(name: str, rows: list[Row], tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, rows)
    source = open_source(str(tmp_path / name))
    assert source.kind == KINDS[name]
    assert source.location == str(tmp_path / name)
    assert source.num_rows == 3
    for _ in range(2):  # any number of times
        read = list(source.rows())
        assert [row.value for row in read] == rows
        assert [row.index for row in read] == [0, 1, 2]
        assert [row.problem for row in read] == [None, None, None]


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "saved"])
def test_the_hash_is_of_the_file_and_changes_with_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path, CHAT)
    assert open_source(str(path)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hash_of_a_saved_data_set_is_of_its_rows(tmp_path: Path) -> None:
    one, same, other = tmp_path / "one", tmp_path / "same", tmp_path / "other"
    WRITERS["saved"](one, CHAT)
    WRITERS["saved"](same, CHAT)
    WRITERS["saved"](other, CHAT[:2])
    assert open_source(str(one)).sha256 == open_source(str(same)).sha256
    assert open_source(str(one)).sha256 != open_source(str(other)).sha256


def test_a_saved_selection_gives_its_own_rows(tmp_path: Path) -> None:
    datasets.Dataset.from_list(TEXT).select([2, 0]).save_to_disk(tmp_path / "saved")
    assert [row.value for row in open_source(str(tmp_path / "saved")).rows()] == [TEXT[2], TEXT[0]]


@pytest.mark.parametrize("name", ["saved", "a.parquet", "a.arrow", "wrapped.json"])
def test_sources_without_lines_name_none(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, CHAT)
    assert {row.line for row in open_source(str(tmp_path / name)).rows()} == {None}


def test_more_rows_than_a_parquet_batch_keep_their_index(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"chosen": str(number)} for number in range(2500)])
    read = list(open_source(str(tmp_path / "a.parquet")).rows())
    assert [(row.index, row.value["chosen"]) for row in read] == [(number, str(number)) for number in range(2500)]


BROKEN_LINES = b"\n".join(
    [
        b'\xef\xbb\xbf{"chosen": "first"}\r',
        b"",
        b'  {"chosen": "padded"}  \r',
        b" \t\r",
        b'{"chosen": "cut',
        b'{"chosen": "\xff"}',
        b'["a list"]',
        b'{"a": 1} {"b": 2}',
        b'{"chosen": "last", "n": [1, null, true]}',
    ]
)


def test_a_broken_line_is_a_row_and_spoils_no_other(tmp_path: Path) -> None:
    source = source_of(tmp_path, "a.jsonl", BROKEN_LINES)
    assert source.num_rows == 7
    read = list(source.rows())
    assert [(row.index, row.line, row.value) for row in read] == [
        (0, 1, {"chosen": "first"}),
        (1, 3, {"chosen": "padded"}),
        (2, 5, None),
        (3, 6, None),
        (4, 7, ["a list"]),
        (5, 8, None),
        (6, 9, {"chosen": "last", "n": [1, None, True]}),
    ]
    # Python determines the text after the colon.
    assert [row.problem and row.problem.split(":")[0] for row in read] == [
        None,
        None,
        "broken JSON at column 12",
        "invalid UTF-8 at byte 12 of the line",
        None,
        "broken JSON at column 10",
        None,
    ]


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"n": ' + b"1" * 5000 + b"}"], ids=["deep", "huge number"])
def test_json_that_python_cannot_hold_is_a_broken_row(content: bytes, tmp_path: Path) -> None:
    source = source_of(tmp_path, "a.jsonl", content + b'\n{"chosen": "next"}\n')
    first, second = source.rows()
    assert first.value is None
    assert (first.problem or "").startswith("unreadable JSON: ")
    assert second == RawRow(1, {"chosen": "next"}, 2)


def test_line_separators_inside_strings_are_no_line_ends(tmp_path: Path) -> None:
    source = source_of(tmp_path, "a.jsonl", '{"chosen": "a\u2028b\x85c\x0b"}\n{"chosen": "d"}\n'.encode())
    # The vertical tab is a control character. JSON allows it only as an escape.
    assert [row.line for row in source.rows()] == [1, 2]
    assert problems(source)[1] is None


@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf", b" \r\n\t"], ids=["plain", "BOM", "blank"])
def test_a_json_file_is_an_array_or_lines_by_its_content(lead: bytes, tmp_path: Path) -> None:
    array = source_of(tmp_path, "a.json", lead + b'[{"chosen": "a"},\n {"chosen": "b"}]')
    lines = source_of(tmp_path, "b.json", lead + b'{"chosen": "a"}\n{"chosen": "b"}\n')
    assert (array.kind, lines.kind) == ("JSON array", "JSON lines")
    for source in (array, lines):
        assert [row.value for row in source.rows()] == [{"chosen": "a"}, {"chosen": "b"}]


def test_one_row_that_holds_lists_is_not_taken_for_a_wrapper(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": [{"role": "assistant", "content": "c"}], "rejected": "r"}
    source = source_of(tmp_path, "a.json", json.dumps(row).encode())
    assert [row.value for row in source.rows()] == [row]


def test_an_array_may_hold_things_that_are_no_objects(tmp_path: Path) -> None:
    source = source_of(tmp_path, "a.json", b'[1, null, "x", [2], {"chosen": "a"}]')
    assert [row.value for row in source.rows()] == [1, None, "x", [2], {"chosen": "a"}]


CSV_CONTENT = (
    b"\xef\xbb\xbfprompt,chosen,rejected\r\n"
    b'a,"two\r\nlines",c\r\n'  # lines 2 and 3
    b"only,two\r\n"  # 4
    b"one,two,three,four,five\r\n"  # 5
    b'a,,"say ""c"""\r\n'  # 6
)


def test_rows_of_a_csv_start_where_they_say(tmp_path: Path) -> None:
    source = source_of(tmp_path, "a.csv", CSV_CONTENT)
    assert source.num_rows == 4
    assert list(source.rows()) == [
        RawRow(0, {"prompt": "a", "chosen": "two\r\nlines", "rejected": "c"}, 2),
        RawRow(1, None, 4, "no cell for rejected"),
        RawRow(2, None, 5, "2 more cells than the header"),
        RawRow(3, {"prompt": "a", "chosen": "", "rejected": 'say "c"'}, 6),
    ]


def test_blank_lines_of_a_csv_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    source = source_of(tmp_path, "a.csv", b"prompt,chosen,rejected\n\n\na,b,c\n\nd,e,f\n")
    assert [(row.index, row.line) for row in source.rows()] == [(0, 4), (1, 6)]


def test_a_tab_is_no_delimiter_of_a_csv_nor_a_comma_of_a_tsv(tmp_path: Path) -> None:
    comma = source_of(tmp_path, "a.csv", b"chosen,rejected\na\tb,c\n")
    tab = source_of(tmp_path, "a.tsv", b"chosen\trejected\na,b\tc\n")
    assert next(comma.rows()).value == {"chosen": "a\tb", "rejected": "c"}
    assert next(tab.rows()).value == {"chosen": "a,b", "rejected": "c"}


def test_a_cell_is_a_list_only_when_it_is_one(tmp_path: Path) -> None:
    cells = ['[{"role": "user", "content": "x"}]', ' [{"role": "user"}]', "[{broken", "[1, 2]", "{}", "4"]
    write_delimited(tmp_path / "a.csv", [{"chosen": cell, "n": "x"} for cell in cells], ",")
    read = [row.value["chosen"] for row in open_source(str(tmp_path / "a.csv")).rows()]
    assert read == [[{"role": "user", "content": "x"}], [{"role": "user"}], "[{broken", "[1, 2]", "{}", "4"]


def test_an_answer_in_json_stays_text(tmp_path: Path) -> None:
    row = {"prompt": "As JSON:", "chosen": '[{"answer": 4}]', "rejected": "4"}
    write_delimited(tmp_path / "a.csv", [row], ",")
    assert next(open_source(str(tmp_path / "a.csv")).rows()).value == row


def test_a_cell_nested_too_deeply_is_text(tmp_path: Path) -> None:
    cell = '[{"a":' * 100_000
    write_delimited(tmp_path / "a.csv", [{"chosen": cell, "rejected": "r"}], ",")
    assert next(open_source(str(tmp_path / "a.csv")).rows()).value == {"chosen": cell, "rejected": "r"}


def saved_splits(path: Path, *names: str) -> None:
    parts = {name: datasets.Dataset.from_list([{"chosen": name}]) for name in names}
    datasets.DatasetDict(parts).save_to_disk(path)


def test_the_split_is_chosen_unless_there_is_only_one(tmp_path: Path) -> None:
    saved_splits(tmp_path / "two", "train_prefs", "test_prefs")
    saved_splits(tmp_path / "one", "train_prefs")
    assert [row.value for row in open_source(str(tmp_path / "two"), ReadingSettings(split="test_prefs")).rows()] == [
        {"chosen": "test_prefs"}
    ]
    assert [row.value for row in open_source(str(tmp_path / "one")).rows()] == [{"chosen": "train_prefs"}]
    with pytest.raises(DataError, match=r"several splits and none chosen\n.*one of train_prefs, test_prefs\n.*--split"):
        open_source(str(tmp_path / "two"))
    for folder in ("two", "one"):
        with pytest.raises(DataError, match="no split 'train'"):
            open_source(str(tmp_path / folder), ReadingSettings(split="train"))


def mixed_rows() -> list[Row]:
    # Not "4" and "5", because datasets reads such strings in a mixed column back as numbers.
    return [TEXT[1], CHAT[0]]


def test_a_saved_data_set_of_mixed_rows_keeps_their_types(tmp_path: Path) -> None:
    datasets.Dataset.from_list(mixed_rows(), on_mixed_types="use_json").save_to_disk(tmp_path / "saved")
    assert [row.value for row in open_source(str(tmp_path / "saved")).rows()] == mixed_rows()


def test_a_parquet_file_of_mixed_rows_keeps_their_types(tmp_path: Path) -> None:
    datasets.Dataset.from_list(mixed_rows(), on_mixed_types="use_json").to_parquet(tmp_path / "a.parquet")
    assert [row.value for row in open_source(str(tmp_path / "a.parquet")).rows()] == mixed_rows()


def test_a_parquet_file_keeps_tool_arguments(tmp_path: Path) -> None:
    rows = [
        {"chosen": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]}
        for arguments in ({"place": "Rome"}, {"number": 1})
    ]
    datasets.Dataset.from_list(rows, on_mixed_types="use_json").to_parquet(tmp_path / "a.parquet")
    assert [row.value for row in open_source(str(tmp_path / "a.parquet")).rows()] == rows


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "empty lines": ("a.jsonl", b"", "no rows"),
    "blank lines": ("a.jsonl", b"\n \r\n\t\n", "no rows"),
    "empty array": ("a.json", b"[]", "no rows"),
    "empty json": ("a.json", b"", "no rows"),
    "empty wrapper": ("a.json", b'{"data": []}', "no rows"),
    "cut array": ("a.json", b'[{"chosen": "a"},', "broken JSON"),
    "array not UTF-8": ("a.json", b'[{"chosen": "\xff"}]', "broken JSON"),
    "array too deep": ("a.json", b"[" * 100_000, "broken JSON"),
    "empty csv": ("a.csv", b"", "no rows"),
    "only a header": ("a.csv", b"prompt,chosen,rejected\n", "no rows"),
    "csv not UTF-8": ("a.csv", b"chosen,rejected\n\xff,b\n", "can't decode byte 0xff"),
    "empty parquet": ("a.parquet", b"", "size is 0 bytes"),
    "no parquet": ("a.parquet", b"PAR1 nothing of the kind PAR1", "Parquet"),
    "unknown suffix": ("a.xlsx", b"x", r"unknown file type \.xlsx"),
    "no suffix": ("pairs", b"x", r"unknown file type \(no suffix\)"),
    "no gzip": ("a.jsonl.gz", b"x", "Not a gzipped file"),
    "cut gzip": ("a.jsonl.gz", gzip.compress(b'{"chosen": "a"}')[:-9], "ended before"),
    "no xz": ("a.csv.xz", b"x", "Compressed file ended|Input format not supported"),
    "no bzip2": ("a.json.bz2", b"xxxx", "Invalid data stream"),
    "cut zst": ("a.jsonl.zst", pa.compress(b"{}", codec="zstd", asbytes=True)[:-2], "a.jsonl.zst"),
    "compressed columns": ("a.parquet.gz", b"x", r"a compressed \.parquet file"),
    "two arrays": ("a.json", b"[{}] [{}]", "unexpected text after the array"),
    "no comma": ("a.json", b'[{"a": 1}\n{"a": 2}]', "line 2: expected ','"),
    "open quote": ("a.csv", b'chosen,rejected\na,b\n"c,d\ne,f\n', "unexpected end of data"),
    "two lists": ("a.json", b'{\n"train": [{}],\n"test": [{}]}', "several splits and none chosen"),
    "no arrow": ("a.arrow", b"ARROW1 nothing of the kind", "Arrow"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_holds_no_rows_is_refused_by_name(case: str, tmp_path: Path) -> None:
    name, content, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as caught:
        source_of(tmp_path, name, content)
    assert str(tmp_path / name) in caught.value.found
    assert caught.value.expected
    assert caught.value.remedy
    assert caught.value.exit_code is ExitCode.INPUT


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(str(tmp_path / "none.jsonl"))


def test_a_folder_without_a_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder without a data set"):
        open_source(str(tmp_path))
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(DataError, match=r"unknown file type \.md"):
        open_source(str(tmp_path))


def test_a_cut_parquet_file_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "whole.parquet", CHAT)
    content = (tmp_path / "whole.parquet").read_bytes()
    assert open_source(str(tmp_path / "whole.parquet")).num_rows == 3
    with pytest.raises(DataError, match="Parquet"):
        source_of(tmp_path, "cut.parquet", content[: len(content) // 2])


def test_a_parquet_file_with_rotten_pages_is_refused(tmp_path: Path) -> None:
    rows = [{"chosen": f"answer {number}", "rejected": "no"} for number in range(3000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "whole.parquet", compression="zstd")
    content = bytearray((tmp_path / "whole.parquet").read_bytes())
    for place in range(50, 2000):
        content[place] ^= 0x5A
    with pytest.raises(DataError, match=r"a\.parquet"):
        list(source_of(tmp_path, "a.parquet", bytes(content)).rows())


def test_a_saved_data_set_without_its_files_is_refused(tmp_path: Path) -> None:
    WRITERS["saved"](tmp_path / "saved", CHAT)
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="save_to_disk"):
        open_source(str(tmp_path / "saved"))


@pytest.mark.parametrize("content", ["{broken", "{}", '{"splits": ["train"]}'])
def test_a_broken_list_of_splits_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text(content)
    with pytest.raises(DataError):
        open_source(str(tmp_path))


def test_a_json_object_nested_too_deeply_is_a_broken_row(tmp_path: Path) -> None:
    source = source_of(tmp_path, "a.json", b'{"a":' * 100_000)
    assert (problems(source)[0] or "").startswith("unreadable JSON: ")


def test_one_row_over_several_lines_is_one_row(tmp_path: Path) -> None:
    source = source_of(tmp_path, "a.json", json.dumps(TEXT[0], indent=2).encode())
    assert [row.value for row in source.rows()] == [TEXT[0]]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_an_invalid_split_is_refused_instead_of_ignored(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"chosen": "a", "rejected": "b"}\n' * 2)
    assert open_source(str(tmp_path / name), ReadingSettings(split="train")).num_rows > 0
    with pytest.raises(DataError, match="--split test, but it has no splits"):
        open_source(str(tmp_path / name), ReadingSettings(split="test"))


def texts(data: str | Path, **reading: Any) -> list[str]:
    return [row.value["chosen"] for row in open_source(str(data), ReadingSettings(**reading)).rows()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A typical data folder: parts by split, several file types, and files without data."""
    (tmp_path / "data").mkdir()
    for name in ("train-00000", "train-00001", "test-00000"):
        (tmp_path / f"data/{name}.jsonl").write_bytes(as_lines([{"chosen": f"{name}, {row}"} for row in range(3)]))
    (tmp_path / ".hidden.jsonl").write_text("{}")
    return tmp_path


def test_a_folder_is_its_files_by_split(folder: Path) -> None:
    source = open_source(str(folder), ReadingSettings(split="train"))
    assert [(row.index, row.line) for row in source.rows()] == [(0, 1), (1, 2), (2, 3), (3, 1), (4, 2), (5, 3)]
    assert [row.value["chosen"] for row in source.rows()][2:4] == ["train-00000, 2", "train-00001, 0"]
    assert {Path(row.file or "").name for row in source.rows()} == {"train-00000.jsonl", "train-00001.jsonl"}
    assert (source.kind, source.num_rows) == ("2 files, JSON lines", 6)
    with pytest.raises(DataError, match="several splits and none chosen"):
        open_source(str(folder))


def test_a_folder_with_a_readme_has_the_configurations_that_it_names(folder: Path) -> None:
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: mine\n  data_files:\n  - split: all\n    path: data/test-*.jsonl\n---\n"
    )
    assert texts(folder, config_name="mine") == [f"test-00000, {row}" for row in range(3)]
    with pytest.raises(DataError, match="yours"):
        open_source(str(folder), ReadingSettings(config_name="yours"))


def test_a_pattern_is_its_files_in_order(folder: Path) -> None:
    assert texts(folder / "data/t*-00000.jsonl")[2:4] == ["test-00000, 2", "train-00000, 0"]
    with pytest.raises(DataError, match="no such file"):
        open_source(str(folder / "data/*.csv"))


def test_files_together_are_told_apart_by_any_of_them(folder: Path) -> None:
    pattern = str(folder / "data/*.jsonl")
    before = open_source(pattern).identity
    assert open_source(pattern).identity == before
    (folder / "data/train-00001.jsonl").write_bytes(as_lines([{"chosen": "new"}] * 3))
    assert open_source(pattern).identity["sha256"] != before["sha256"]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:2]", [0, 1]),
        ("train[-1:]", [9]),
        ("train[50%:80%]", [5, 6, 7]),
        ("train[8:]+train[:1]", [0, 8, 9]),
    ],
)
def test_a_slice_keeps_the_rows_numbers(split: str, expected: list[int], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines([{"chosen": str(row)} for row in range(10)]))
    source = open_source(str(path), ReadingSettings(split=split))
    assert [row.index for row in source.rows()] == list(source.indices) == expected
    assert [row.value["chosen"] for row in source.rows()] == list(map(str, expected))
    assert source.identity["slice"] == split


def test_a_saved_split_is_sliced_as_well(tmp_path: Path) -> None:
    datasets.DatasetDict({"prefs": datasets.Dataset.from_list(TEXT)}).save_to_disk(tmp_path)
    assert texts(tmp_path, split="prefs[1:2]") == [TEXT[1]["chosen"]]


@pytest.mark.parametrize("split", ["train[", "train[:2", "train[5]", "train[:2]+test[:2]", "test[:2]"])
def test_invalid_slices_are_refused(split: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_lines(TEXT))
    with pytest.raises(DataError, match="--split"):
        open_source(str(tmp_path / "a.jsonl"), ReadingSettings(split=split))


def test_rows_of_an_array_have_the_lines_on_which_they_start(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(TEXT, indent=2))
    assert [row.line for row in open_source(str(path)).rows()] == [2, 7, 12]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_an_array_is_read_the_same_in_pieces_of_any_size(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"a": "x" * 30, "b": [1.5, -12, 1e30, None, "]"]}, 1234567, "é🙂", {"c": {}}, [[]], -3.25]
    (tmp_path / "a.json").write_text(f" \n{json.dumps(rows, ensure_ascii=False)}\n ")
    monkeypatch.setattr(json_text, "READ_BYTES", size)
    assert [element.value for element in json_text.array_elements((tmp_path / "a.json").open(), LARGEST_ROW)] == rows


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.parquet", "a.arrow"])
def test_memory_does_not_grow_with_the_rows(name: str, tmp_path: Path) -> None:
    few, many = (
        [{"prompt": "q", "chosen": "x" * 2000, "rejected": str(row)} for row in range(n)] for n in (1000, 8000)
    )
    (tmp_path / "few").mkdir()
    WRITERS[name](tmp_path / "few" / name, few)
    WRITERS[name](tmp_path / name, many)
    assert peak_of_reading(tmp_path / name) < peak_of_reading(tmp_path / "few" / name) + 4 * 2**20  # 14 MB more rows


def peak_of_reading(path: Path) -> int:
    """Peak bytes of Python objects while all rows are read. pyarrow's own buffers hold one batch."""
    tracemalloc.start()
    try:
        source = open_source(str(path))
        assert sum(1 for _ in source.rows()) == source.num_rows
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


FUZZED = ("a.jsonl", "a.json", "wrapped.json", "a.csv", "a.tsv", "a.parquet", "a.arrow", "stream.arrow")
COMPRESSED = ("a.jsonl.gz", "a.json.bz2", "a.JSONL.xz", "a.jsonl.zst")


@cache
def whole_file(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        WRITERS[name](path, CHAT)
        return path.read_bytes()


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_end_in_a_traceback_or_lose_a_row(tmp_path: Path, data: st.DataObject) -> None:
    """Truncated, modified and random files give rows with a value or a problem, or are refused."""
    name = data.draw(st.sampled_from((*FUZZED, *COMPRESSED)))
    content = bytearray(whole_file(name))
    how = data.draw(st.sampled_from(("cut", "change", "noise")))
    if how == "cut":
        del content[data.draw(st.integers(0, len(content))) :]
    elif how == "noise":
        content = bytearray(data.draw(st.binary(max_size=60)))
    else:
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        source = source_of(tmp_path, name, bytes(content))
        rows = list(source.rows())
    except DataError:
        return
    assert [row.index for row in rows] == list(range(source.num_rows))
    reader = PairReader()
    for row in rows:
        assert reader.read(row)


@given(st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_saved_data_set_is_refused_or_read_whole(tmp_path: Path, data: st.DataObject) -> None:
    """Arrow trusts the offsets in its files. A wrong offset ended the process."""
    saved = tmp_path / "saved"
    shutil.rmtree(saved, ignore_errors=True)
    WRITERS["saved"](saved, CHAT)
    file = data.draw(st.sampled_from(sorted(saved.iterdir())))
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(content))
    try:
        source = open_source(str(saved))
        assert len(list(source.rows())) == source.num_rows
    except DataError:
        return


def test_a_folder_that_would_be_read_in_part_is_refused(folder: Path) -> None:
    (folder / "data/train-00002.csv").write_text("chosen,rejected\na,b\n")
    with pytest.raises(DataError, match=r"1 file would be ignored, such as data/train-00002\.csv"):
        open_source(str(folder), ReadingSettings(split="train"))


def test_a_damaged_file_among_several_is_named(folder: Path) -> None:
    (folder / "data/train-00002.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"train-00002\.jsonl\.gz: Not a gzipped file"):
        open_source(str(folder), ReadingSettings(split="train"))


@pytest.mark.parametrize("name", ["~nobody-of-this-name/a.jsonl", "x" * 300, "."])
def test_names_that_no_file_can_have(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        open_source(name)


def test_options_of_the_hub_are_refused_for_what_lies_here(folder: Path) -> None:
    for data in (folder, folder / "data/train-00000.jsonl"):
        with pytest.raises(DataError, match="--data-revision v1, but the data are local"):
            open_source(str(data), ReadingSettings(revision="v1", split="train"))


def test_lines_of_a_json_file_are_read_one_by_one(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "chosen": "x" * 2000, "rejected": str(row)} for row in range(4000)]
    WRITERS["lines.json"](tmp_path / "a.json", rows)
    assert peak_of_reading(tmp_path / "a.json") < 4 * 2**20


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ('{"a": 1}'.encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), "iconv -f UTF-16 -t UTF-8"),
        (gzip.compress(b"{}"), "pairs{suffix}.gz"),
        (b"PAR1", "pairs.parquet"),
        (b"PK\x03\x04", "unzip"),
    ],
    ids=["utf-16", "utf-16 without a mark", "gzip", "parquet", "zip"],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_text_file_that_holds_something_else_is_refused(
    content: bytes, remedy: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"pairs{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        open_source(str(path))
    assert remedy.format(suffix=suffix) in refused.value.remedy


SHORT = ReadingSettings(max_row_bytes=100)


def test_a_row_above_the_limit_is_skipped_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c" * length} for length in (1, 200, 2, 3000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(str(path), SHORT)
    found = list(source.rows())
    assert source.num_rows == 4
    assert [row.line for row in found] == [1, 2, 3, 4]
    assert [row.problem is None for row in found] == [True, False, True, False]
    assert "more than 100 bytes; --max-row-bytes" in str(found[1].problem)
    assert all(row.problem is None for row in open_source(str(path), ReadingSettings(max_row_bytes=4000)).rows())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps([{"prompt": "a" * 200}])),
        ("b.json", json.dumps({"prompt": "a" * 200}, indent=1) + json.dumps({"prompt": "b"}, indent=1)),
        ("c.csv", "prompt,chosen\n" + "a" * 200 + ",b\n"),
        ("d.csv", 'prompt,chosen\n"' + "a\n" * 100 + '",b\n'),
    ],
    ids=["array", "objects", "a line of a CSV", "a cell over several lines"],
)
def test_a_row_above_the_limit_that_cannot_be_skipped_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=r"max-row-bytes|field limit"):
        list(open_source(str(tmp_path / name), SHORT).rows())


def test_a_small_file_that_expands_to_one_long_line_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pairs.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(256):
            file.write(b"0" * 2**20)
    with pytest.raises(DataError, match="it decompresses to more than"):
        open_source(str(path))
    monkeypatch.setattr(compression, "LARGEST_EXPANDED", 2**30)
    tracemalloc.start()
    source = open_source(str(path), ReadingSettings(max_row_bytes=2**20))
    assert [row.problem is not None for row in source.rows()] == [True]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20
