"""Some rows of a data set, written in its own format: lines and columns as they were, perhaps with columns added."""

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
    """Which rows are written, and what is added to them."""

    keeps: Callable[[int], bool]
    """Of a row's index."""
    added: Mapping[str, Callable[[int], Any]] = field(default_factory=dict)
    """Name of a column to its value for a row's index; numbers, text and flags, or None."""
    types: Mapping[str, type] = field(default_factory=dict)
    """Name of an added column to `float`, `str` or `bool`."""

    def of_row(self, index: int) -> dict[str, Any]:
        """What is added to a row."""
        return {name: value(index) for name, value in self.added.items()}

    def behind(self, start: int) -> Subset:
        """The same for a file whose first row has the index `start`."""
        added = {name: (lambda index, value=value: value(start + index)) for name, value in self.added.items()}
        return replace(self, keeps=lambda index: self.keeps(start + index), added=added)


def check_target(source: RowSource, target: Path) -> None:
    """Refuse a target before anything is computed.

    Raises:
        UsageError: it exists, its folder does not, or its name says another format than the data have.
    """
    while isinstance(source, Slice):
        source = source.whole
    if isinstance(source, AdjacentRows):
        raise UsageError(
            f"{source.location}: pairs of two rows each",
            "data with one pair a row",
            "write pairs first, or filter them by the indices in entangle report --format csv",
        )
    if target.exists():
        raise UsageError(f"-o {target}: it exists", "a new name; data are never replaced", "name another one")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"-o {target}: no such folder", "a folder that exists", "make its folder first")
    if not isinstance(source, FileSource):
        if kind_suffix(target):
            raise UsageError(
                f"-o {target}: the data are a {source.kind}", "a name without a suffix, for a folder", "name a folder"
            )
    elif _kind(target) != _kind(source.path):
        raise UsageError(
            f"-o {target}: the data are {source.path.name}",
            f"a name that ends in {kind_suffix(source.path)}",
            "rows are written in the data's own format; name the file so",
        )


def _kind(path: Path) -> str:
    suffix = kind_suffix(path)
    return ".jsonl" if suffix == ".ndjson" else suffix


def write_subset(source: RowSource, target: Path, subset: Subset) -> None:
    """Write the kept rows, in order; the target appears under its name when it is whole.

    Raises:
        UnfinishedError: it cannot be written, as on a full disk.
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
            f"-o {target}: {error.strerror or error}", "room and permission to write it", "make room, then try again"
        ) from error


def _write(source: RowSource, path: Path, name: Path, subset: Subset) -> None:
    """Write to `path` what will be called `name`."""
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
    """Each file under its own name; one of which no row is left is written all the same."""
    folder.mkdir()
    if (readme := Path(source.location) / "README.md").is_file():
        shutil.copyfile(readme, folder / "README.md")  # it may say which files are which split
    start = 0
    for part, name in source.parts:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(part, target, target, subset.behind(start))
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
                json.dumps(source.layout.of(rows), ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
            )
        case Delimited():
            _write_table(source, file, subset)
        case _:
            raise AssertionError(source)


def _write_lines(source: JsonLines, file: IO[bytes], subset: Subset) -> None:
    """Kept lines byte by byte; where columns are added a line is written anew. Mark and line ends stay."""
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
        return line  # a broken row stays as it is
    return _as_json(_with_columns(row, index, subset)) + end


def _with_columns(row: Any, index: int, subset: Subset) -> Any:
    return {**row, **subset.of_row(index)} if subset.added and isinstance(row, dict) else row


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
    """Kept records byte by byte; where columns are added a record is written anew. Mark and line ends stay."""
    with opened_bytes(source.path) as original:
        if original.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK:
            file.write(BYTE_ORDER_MARK)
    records = source.records()
    header = next(records)
    end = "\r\n" if header.text.endswith("\r\n") else "\n"
    own = [place for place, name in enumerate(header.cells) if name not in subset.added]

    def write(cells: list[str], text: str, added: list[Any]) -> None:
        # A row of more or fewer cells than the header stays as it is: in no other place would they be right.
        if not subset.added or len(cells) != len(header.cells):
            line = text if text.endswith(("\n", "\r")) else text + end
        else:
            line = _csv_line([*(cells[place] for place in own), *added], source.delimiter, end)
        file.write(line.encode("utf-8", "surrogatepass"))

    write(header.cells, header.text, list(subset.added))
    for index, record in enumerate(records):
        if subset.keeps(index):
            write(record.cells, record.text, list(subset.of_row(index).values()))


def _csv_line(cells: list[Any], delimiter: str, end: str) -> str:
    line = StringIO()
    csv.writer(line, delimiter=delimiter, lineterminator=end).writerow(cells)
    return line.getvalue()
