"""Writing a subset of a data set in its own format, with lines and columns unchanged and optional new columns."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import IO, Any

from entangle_cli.data.arrow_files import ArrowFile, Parquet, SavedDataset
from entangle_cli.data.arrow_subset import write_dataset, write_record_batches
from entangle_cli.data.compression import kind_suffix, opened_bytes, opened_for_writing
from entangle_cli.data.delimited import Delimited
from entangle_cli.data.formats.adjacent import AdjacentRows
from entangle_cli.data.hub import HubDataset
from entangle_cli.data.json_files import BYTE_ORDER_MARK, JsonArray, JsonDocument, JsonLines, JsonValues
from entangle_cli.data.json_text import Parser
from entangle_cli.data.rows import FileSource, RowSource
from entangle_cli.data.slices import Slice
from entangle_cli.data.sources import SeveralFiles
from entangle_cli.errors import UnfinishedError, UsageError


@dataclass(frozen=True, slots=True)
class Subset:
    """The rows to write, and the columns to add."""

    keeps: Callable[[int], bool]
    """Row index to whether the row is kept."""
    added: Mapping[str, Callable[[int], Any]] = field(default_factory=dict)
    """Name of a new column to a function from row index to value: number, text, flag or None."""
    types: Mapping[str, type] = field(default_factory=dict)
    """Name of a new column to `float`, `str` or `bool`."""

    def added_values(self, index: int) -> dict[str, Any]:
        """The new columns' values for a row."""
        return {name: value(index) for name, value in self.added.items()}

    def from_row(self, start: int) -> Subset:
        """The same subset for a file whose first row has the index `start`."""
        added = {name: (lambda index, value=value: value(start + index)) for name, value in self.added.items()}
        return replace(self, keeps=lambda index: self.keeps(start + index), added=added)


def check_target(source: RowSource, target: Path, option: str = "-o") -> None:
    """Refuse an unusable target before any computation.

    Args:
        option: the option that names the target.
    Raises:
        UsageError: the target exists, its folder does not exist, its suffix does not match the data's format, or the
            data have pairs of two rows.
    """
    while isinstance(source, Slice):
        source = source.whole
    if isinstance(source, AdjacentRows):
        raise UsageError(
            f"{source.location}: every pair spans two rows",
            "data with one pair per row",
            "save the data as pairs first, or filter by the indices in entangle report --format csv",
        )
    if target.exists():
        raise UsageError(
            f"{option} {target} already exists", "a new name; entangle does not overwrite data", "choose another name"
        )
    if not target.absolute().parent.is_dir():
        raise UsageError(
            f"{option} {target}: its folder does not exist", "an existing folder", f"mkdir -p {target.parent}"
        )
    if not isinstance(source, FileSource):
        if kind_suffix(target):
            raise UsageError(
                f"{option} {target}: the data are a {source.kind}",
                "a folder name without a suffix",
                f"use a folder name, for example {option} kept",
            )
    elif _kind(target) != _kind(source.path):
        raise UsageError(
            f"{option} {target}: the data are {source.path.name}",
            f"a name that ends in {kind_suffix(source.path)}, the data's own format",
            f"use for example {option} kept{kind_suffix(source.path)}",
        )


def _kind(path: Path) -> str:
    suffix = kind_suffix(path)
    return ".jsonl" if suffix == ".ndjson" else suffix


def write_subset(source: RowSource, target: Path, subset: Subset, option: str = "-o") -> None:
    """Write the kept rows in order. The target appears under its name only once it is complete.

    Args:
        option: the option that names the target.
    Raises:
        UnfinishedError: the target cannot be written, for example on a full disk.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _write(source, temporary, target, subset)
        temporary.rename(target)
    except BaseException as error:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise UnfinishedError(
            f"{option} {target}: {error.strerror or error}",
            "space and permission to write it",
            "free some space or check the permissions, then rerun the command",
        ) from error


def _write(source: RowSource, path: Path, name: Path, subset: Subset) -> None:
    """Write to `path`. The file gets the compression of `name`, its final name."""
    match source:
        case Slice():
            wanted = frozenset(source.indices)
            _write(source.whole, path, name, replace(subset, keeps=lambda row: row in wanted and subset.keeps(row)))
        case SeveralFiles():
            _write_several(source, path, subset)
        case Parquet() | ArrowFile():
            write_record_batches(source, path, subset.keeps, subset.added, subset.types)
        case SavedDataset() | HubDataset():
            write_dataset(source.dataset, path, subset.keeps, subset.added)
        case _:
            with opened_for_writing(path, name) as file:
                _write_text(source, file, subset)


def _write_several(source: SeveralFiles, folder: Path, subset: Subset) -> None:
    """Write every file under its own name, even if it has no rows left."""
    folder.mkdir()
    if (readme := Path(source.location) / "README.md").is_file():
        shutil.copyfile(readme, folder / "README.md")  # it may assign files to splits
    start = 0
    for part, name in source.parts:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(part, target, target, subset.from_row(start))
        start += part.num_rows


def _write_text(source: RowSource, file: IO[bytes], subset: Subset) -> None:
    match source:
        case JsonLines():
            _write_lines(source, file, subset)
        case JsonArray():
            _write_array(source, file, subset)
        case JsonValues():
            for row in source.rows():
                if subset.keeps(row.index):
                    value = json.dumps(_with_columns(row.value, row.index, subset), ensure_ascii=False, indent=2)
                    file.write(value.encode("utf-8", "surrogatepass") + b"\n")
        case JsonDocument():
            kept = [row for row in source.rows() if subset.keeps(row.index)]
            rows = [(row.index, _with_columns(row.value, row.index, subset)) for row in kept]
            file.write(
                json.dumps(source.layout.with_rows(rows), ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
            )
        case Delimited():
            _write_table(source, file, subset)
        case _:
            raise AssertionError(source)


def _write_lines(source: JsonLines, file: IO[bytes], subset: Subset) -> None:
    """Copy kept lines byte for byte, or rewrite them if columns are added. The BOM and line ends stay."""
    index = 0
    with opened_bytes(source.path) as lines:
        for number, line in enumerate(lines):
            if number == 0:
                end = _line_end(line)
                if line.startswith(BYTE_ORDER_MARK):
                    file.write(BYTE_ORDER_MARK)
                    line = line.removeprefix(BYTE_ORDER_MARK)
            if not line.strip():
                continue
            if subset.keeps(index):
                line = line if line.endswith(b"\n") else line + end
                file.write(_annotated_line(line, end, index, subset) if subset.added else line)
            index += 1


def _line_end(line: bytes) -> bytes:
    return b"\r\n" if line.endswith(b"\r\n") else b"\n"


def _annotated_line(line: bytes, end: bytes, index: int, subset: Subset) -> bytes:
    try:
        row = Parser().loads(line.decode())
    except (ValueError, RecursionError):
        return line  # a broken row stays unchanged
    return _as_json(_with_columns(row, index, subset)) + end


def _with_columns(row: Any, index: int, subset: Subset) -> Any:
    return {**row, **subset.added_values(index)} if subset.added and isinstance(row, dict) else row


def _as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _write_array(source: JsonArray, file: IO[bytes], subset: Subset) -> None:
    separator = b"[\n"
    for row in source.rows():
        if subset.keeps(row.index):
            file.write(separator + _as_json(_with_columns(row.value, row.index, subset)))
            separator = b",\n"
    file.write(b"[]\n" if separator == b"[\n" else b"\n]\n")


def _write_table(source: Delimited, file: IO[bytes], subset: Subset) -> None:
    """Copy kept records byte for byte, or rewrite them if columns are added. The BOM and line ends stay."""
    with opened_bytes(source.path) as original:
        if original.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK:
            file.write(BYTE_ORDER_MARK)
    records = source.records()
    header = next(records)
    end = "\r\n" if header.text.endswith("\r\n") else "\n"
    own = [column for column, name in enumerate(header.cells) if name not in subset.added]

    def write(cells: list[str], text: str, added: list[Any]) -> None:
        # A row with more or fewer cells than the header stays unchanged: its cells match no column.
        if not subset.added or len(cells) != len(header.cells):
            line = text if text.endswith(("\n", "\r")) else text + end
        else:
            line = _csv_line([*(cells[column] for column in own), *added], source.delimiter, end)
        file.write(line.encode("utf-8", "surrogatepass"))

    write(header.cells, header.text, list(subset.added))
    for index, record in enumerate(records):
        if subset.keeps(index):
            write(record.cells, record.text, list(subset.added_values(index).values()))


def _csv_line(cells: list[Any], delimiter: str, end: str) -> str:
    line = StringIO()
    csv.writer(line, delimiter=delimiter, lineterminator=end).writerow(cells)
    return line.getvalue()
