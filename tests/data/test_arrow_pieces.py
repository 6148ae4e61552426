"""Columnar files read in pieces: same rows as in pyarrow, and a short file of long values needs little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entangle_cli.data import arrow_files, arrow_pieces
from entangle_cli.data.arrow_pieces import TooLong, in_pieces, row_bytes
from entangle_cli.data.sources import open_source
from entangle_cli.errors import DataError

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.large_string())]))
VALUES: dict[str, tuple[pa.DataType, list[Any], list[int]]] = {
    "text": (pa.string(), ["a", None, "hé", ""], [1, 0, 3, 0]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["abc", "abc", None, "d"], [3, 3, 0, 1]),
    "number": (pa.float64(), [1.0, None, 2.0, 3.0], [8, 8, 8, 8]),
    "messages": (MESSAGES, [[{"role": "u", "content": "abc"}] * 2, [], None, [{"content": "x"}]], [24, 0, 0, 9]),
    "map": (pa.map_(pa.string(), pa.string()), [[("a", "bc")], [], None, [("a", None), ("b", "c")]], [11, 0, 0, 19]),
    "pairs": (pa.list_(pa.string(), 2), [["a", "b"], ["cc", None], None, ["", "d"]], [18, 18, 16, 17]),
}


@pytest.mark.parametrize("name", VALUES)
def test_bytes_of_a_row_are_those_of_its_text(name: str) -> None:
    kind, values, expected = VALUES[name]
    array = pa.array(values, kind)
    assert row_bytes(array).tolist() == expected
    assert row_bytes(array[1:3]).tolist() == expected[1:3]
    assert row_bytes(pa.array([], kind)).tolist() == []


def test_a_type_that_no_row_of_text_has_is_refused() -> None:
    ends = pa.RunEndEncodedArray.from_arrays(pa.array([1000], pa.int32()), pa.array(["a" * 1000]))
    for array in (ends, pa.array(["a"], pa.string_view())):
        with pytest.raises(ValueError, match="a column of the type"):
            row_bytes(array)


def test_pieces_are_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    rows = [
        {
            "s": "x" * int(generator.integers(0, 40)),
            "m": [{"role": "u", "content": "y" * int(generator.integers(0, 9))}],
        }
        for _ in range(200)
    ]
    plain = pa.schema([("s", pa.string()), ("m", MESSAGES)])
    coded = pa.schema([("s", pa.dictionary(pa.int32(), pa.string())), ("m", MESSAGES)])
    monkeypatch.setattr(arrow_pieces, "PIECE_BYTES", 100)
    for schema in (plain, coded):
        batch = pa.RecordBatch.from_pylist(rows, schema)
        pieces = list(in_pieces(batch, plain, 45))
        found: list[Any] = []
        for piece in pieces:
            if isinstance(piece, TooLong):
                found.append(piece.num_bytes)
                continue
            found += piece.to_pylist()
            assert piece.num_rows == 1 or sum(map(size, piece.to_pylist())) <= 100
        assert found == [size(row) if size(row) > 45 else row for row in rows]
        assert 10 < sum(isinstance(piece, TooLong) for piece in pieces) < 100


def size(row: dict[str, Any]) -> int:
    return len(row["s"]) + sum(8 + len(turn["role"]) + len(turn["content"]) for turn in row["m"])


# Linux keeps the largest size of the process that started this one in ru_maxrss.
READ = """
import resource, sys
from pathlib import Path
from entangle_cli.data.sources import open_source
rows = list(open_source(sys.argv[1]).rows())
assert all(row.problem.endswith("above the limit of 8,388,608; --max-row-bytes raises it") for row in rows), rows[0]
if sys.platform == "linux":
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(rows), peak)
"""


@pytest.mark.parametrize("nested", [False, True])
def test_one_long_value_for_many_rows_takes_the_memory_of_one(tmp_path: Path, nested: bool) -> None:
    coded: Any = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), ["x" * 40 * 2**20])
    if nested:
        turns = pa.StructArray.from_arrays([pa.array(["user"] * 2000), coded], ["role", "content"])
        coded = pa.ListArray.from_arrays(pa.array(range(2001), pa.int32()), turns)
    table = pa.table({"prompt": coded, "chosen": coded, "rejected": pa.array(["b"] * 2000)})
    pq.write_table(
        table, tmp_path / "a.parquet", compression="zstd", dictionary_pagesize_limit=2**30, store_schema=False
    )
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "a.parquet")], capture_output=True, text=True, check=True
    )
    num_rows, kilobytes = map(int, done.stdout.split())
    assert num_rows == 2000
    assert kilobytes // (1024 if sys.platform == "darwin" else 1) < 2_000_000  # the rows' text is 160 GB


def test_a_file_that_is_nearly_nothing_on_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"{number}" + "x" * 10_000, "chosen": "b", "rejected": "c"} for number in range(500)]
    table, write = pa.Table.from_pylist(rows), {"compression": "zstd", "use_dictionary": False}
    pq.write_table(table, tmp_path / "a.parquet", **write)
    assert [row.value for row in open_source(str(tmp_path / "a.parquet")).rows()] == rows
    monkeypatch.setattr(arrow_files, "LARGEST_EXPANDED", 2**20)
    with pytest.raises(DataError, match=r"5,0.* bytes in .* compressed bytes"):
        open_source(str(tmp_path / "a.parquet"))
    pq.write_table(table, tmp_path / "b.parquet", compression="none", use_dictionary=False)
    assert open_source(str(tmp_path / "b.parquet")).num_rows == 500


DAMAGED = """
import random, sys
from pathlib import Path
from entangle_cli.data.sources import open_source
from entangle_cli.errors import DataError
whole = Path(sys.argv[1]).read_bytes()
damaged = Path(sys.argv[1]).with_name("damaged.parquet")
for seed in range(400):
    chance = random.Random(seed)
    content = bytearray(whole)
    for _ in range(chance.randint(1, 6)):
        content[chance.randrange(len(content) // 2, len(content))] = chance.randrange(256)
    damaged.write_bytes(content)
    try:
        list(open_source(str(damaged)).rows())
    except DataError:
        pass
print("done")
"""


def test_a_damaged_footer_does_not_end_the_process(tmp_path: Path) -> None:
    """pyarrow aborts when it converts a damaged column of a row group to an object."""
    answer = [{"role": "assistant", "content": "c"}]
    rows = [{"prompt": f"p{number}", "chosen": answer, "rejected": answer} for number in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    command = [sys.executable, "-c", DAMAGED, str(tmp_path / "a.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("rows_in_group", [0, 2])
def test_row_groups_and_file_disagree_on_the_number_of_rows(tmp_path: Path, rows_in_group: int) -> None:
    """pyarrow reads only the rows in the row groups and silently drops the others."""
    path = tmp_path / "a.parquet"
    rows = [{"prompt": "p", "chosen": "c", "rejected": "r"}] * 3
    pq.write_table(pa.Table.from_pylist(rows), path)
    content = bytearray(path.read_bytes())
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in (place for place in range(start, len(content)) if content[place] == 6):  # 3, as Thrift writes it
        content[place] = 2 * rows_in_group
        path.write_bytes(content)
        if _rows_in_groups(path) == rows_in_group:
            break
        content[place] = 6
    else:
        pytest.fail("the number is not where it was")
    with pytest.raises(DataError, match=f"3 rows in the file, but {rows_in_group} in its row groups"):
        open_source(str(path))


def _rows_in_groups(path: Path) -> int | None:
    try:
        metadata = pq.ParquetFile(path).metadata
    except (OSError, pa.ArrowException):
        return None
    return int(metadata.row_group(0).num_rows) if metadata.num_rows == 3 else None
