"""Files and folders in, raw rows out, each with its place in the source. Values are not looked at here."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entangle_cli.errors import DataError

LINE_SUFFIXES = {".jsonl", ".ndjson"}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a source as it was found."""

    index: int
    """From 0, in the source's order; broken rows count."""
    value: Any
    """What was parsed; None where `problem` says why nothing could be."""
    line: int | None = None
    """From 1; None where the format has no lines."""
    problem: str | None = None


class RowSource(ABC):
    """A data set on disk that can be read from the start any number of times.

    Attributes:
        path: the file or folder.
        kind: its format in words.
        num_rows: rows in it, broken ones included.
        sha256: hash of its bytes, hexadecimal.
    """

    path: Path
    kind: str
    num_rows: int
    sha256: str

    @abstractmethod
    def rows(self) -> Iterator[RawRow]:
        """All rows, in order."""


def open_source(path: Path, split: str | None = None) -> RowSource:
    """The rows of a local file or `save_to_disk` folder.

    Args:
        split: which part of a folder with several; only those have any.
    Raises:
        DataError: nothing there, not readable, of an unknown kind, or without rows.
    """
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder",
            "a .jsonl, .json, .csv, .tsv or .parquet file, or a folder written by save_to_disk",
            "check the path; data sets on the hub must be downloaded first",
        )
    try:
        source = _open_folder(path, split) if path.is_dir() else _open_file(path, split)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", "a readable file", "check its permissions") from error
    if source.num_rows == 0:
        raise DataError(f"{path}: no rows", "at least one preference pair", "check that the file is complete")
    return source


def _refuse_split(path: Path, split: str | None) -> None:
    if split is not None:
        raise DataError(
            f"{path}: --split {split}, but it has no splits",
            "a folder of several splits written by save_to_disk",
            "leave --split out, or name that folder",
        )


def _open_file(path: Path, split: str | None) -> RowSource:
    _refuse_split(path, split)
    suffix = path.suffix.lower()
    if suffix in LINE_SUFFIXES:
        return JsonLines(path)
    if suffix == ".json":
        return JsonArray(path) if _starts_like_an_array(path) else _json_object(path)
    if suffix in DELIMITERS:
        return Delimited(path, DELIMITERS[suffix])
    if suffix == ".parquet":
        return Parquet(path)
    raise DataError(
        f"{path}: unknown kind of file {suffix or '(no suffix)'}",
        "a .jsonl, .json, .csv, .tsv or .parquet file, or a folder written by save_to_disk",
        "convert it, or rename it if only its name is unusual",
    )


def _starts_like_an_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(READ_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _json_object(path: Path) -> RowSource:
    """One JSON object that wraps a list of rows, or else JSON lines under another name."""
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return JsonLines(path)
    lists = [value for value in document.values() if isinstance(value, list)] if isinstance(document, dict) else []
    wraps_rows = len(lists) == 1 and all(isinstance(row, dict) for row in lists[0])
    is_row = isinstance(document, dict) and "chosen" in document
    return JsonArray(path) if wraps_rows or is_row else JsonLines(path)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read a piece at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


class JsonLines(RowSource):
    """One JSON value a line; blank lines are no rows, broken ones are rows with a problem."""

    kind = "JSON lines"

    def __init__(self, path: Path) -> None:
        self.path = path
        digest = hashlib.sha256()
        self.num_rows = 0
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                self.num_rows += bool(line.strip())
        self.sha256 = digest.hexdigest()

    def rows(self) -> Iterator[RawRow]:
        """All rows, one line in memory at a time."""
        index = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield self._row(index, number, line)
                    index += 1

    @staticmethod
    def _row(index: int, number: int, line: bytes) -> RawRow:
        try:
            return RawRow(index, json.loads(line.decode("utf-8-sig")), number)
        except UnicodeDecodeError as error:
            return RawRow(index, None, number, f"not UTF-8 at byte {error.start} of the line")
        except json.JSONDecodeError as error:
            return RawRow(index, None, number, f"broken JSON at column {error.colno}: {error.msg}")
        except (ValueError, RecursionError) as error:
            return RawRow(index, None, number, f"unreadable JSON: {error}")


class JsonArray(RowSource):
    """A JSON array of rows, or an object whose only list holds them; read as a whole."""

    kind = "JSON array"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256 = file_sha256(path)
        try:
            document = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}: broken JSON: {error}", "one JSON array of rows", "repair the file, or write JSON lines"
            ) from error
        if isinstance(document, dict):
            document = [document] if "chosen" in document else next(v for v in document.values() if isinstance(v, list))
        self._rows = document
        self.num_rows = len(document)

    def rows(self) -> Iterator[RawRow]:
        """All rows."""
        return (RawRow(index, value) for index, value in enumerate(self._rows))


class Delimited(RowSource):
    """A CSV or TSV file with a header; a cell that holds a JSON list is read as that list."""

    kind = "CSV"

    def __init__(self, path: Path, delimiter: str) -> None:
        self.path = path
        self._delimiter = delimiter
        self.sha256 = file_sha256(path)
        # The default limit of 128 KiB a cell is shorter than many answers.
        csv.field_size_limit(sys.maxsize)
        try:
            self.num_rows = sum(1 for _ in self.rows())
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: {error}", "UTF-8 text with one header line", "repair the file, or convert it to JSON lines"
            ) from error

    def rows(self) -> Iterator[RawRow]:
        """All rows; the line is the one on which the row starts."""
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self._delimiter)
            header = next(reader, [])
            index, end = 0, reader.line_num
            for cells in reader:
                start, end = end + 1, reader.line_num
                if cells:  # a blank line is no row
                    yield self._row(index, start, header, cells)
                    index += 1

    @staticmethod
    def _row(index: int, line: int, header: list[str], cells: list[str]) -> RawRow:
        if len(cells) > len(header):
            return RawRow(index, None, line, f"{len(cells) - len(header)} more cells than the header has")
        if missing := header[len(cells) :]:
            return RawRow(index, None, line, f"no cell for {', '.join(missing)}")
        return RawRow(index, {name: _messages_or_text(cell) for name, cell in zip(header, cells, strict=True)}, line)


def _messages_or_text(cell: str) -> Any:
    """Only messages are parsed: an answer may be JSON itself."""
    if not cell.lstrip().startswith("[{"):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return value if all(isinstance(item, dict) and "role" in item for item in value) else cell


class Parquet(RowSource):
    """A Parquet file, read a batch at a time."""

    kind = "Parquet"

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self.path = path
        try:
            self.num_rows = pyarrow.parquet.ParquetFile(path).metadata.num_rows
        except pyarrow.ArrowException as error:
            raise DataError(f"{path}: {error}", "a Parquet file", "check that it was copied completely") from error
        self.sha256 = file_sha256(path)

    def rows(self) -> Iterator[RawRow]:
        """All rows."""
        import pyarrow.parquet

        index = 0
        try:
            file = pyarrow.parquet.ParquetFile(self.path)
            decode = _json_decoder(file.schema_arrow)
            for batch in file.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    yield RawRow(index, decode(value))
                    index += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(
                f"{self.path}, after row {index}: {error}",
                "a whole Parquet file",
                "check that it was copied completely",
            ) from error


def _json_decoder(schema: Any) -> Callable[[Any], Any]:
    """Parses what `datasets` writes as Arrow's JSON type, which pyarrow gives as text."""
    if "extension<arrow.json>" not in schema.to_string(truncate_metadata=True, show_schema_metadata=False):
        return lambda value: value
    import datasets

    decode: Callable[[Any], Any] = datasets.Features.from_arrow_schema(schema).decode_example
    return decode


def _open_folder(path: Path, split: str | None) -> RowSource:
    if (path / "dataset_dict.json").exists():
        return SavedDataset(_split_folder(path, split))
    _refuse_split(path, split)
    if (path / "state.json").exists():
        return SavedDataset(path)
    raise DataError(
        f"{path}: a folder without a data set",
        "a folder written by datasets' save_to_disk",
        "name one of its files instead",
    )


def _split_folder(path: Path, split: str | None) -> Path:
    try:
        splits: list[str] = json.loads((path / "dataset_dict.json").read_text())["splits"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: dataset_dict.json names no splits", "a folder written by datasets' save_to_disk", "write it again"
        ) from error
    chosen = split or (splits[0] if len(splits) == 1 else None)
    if chosen is None or chosen not in splits:
        raise DataError(
            f"{path}: " + (f"no split {split!r}" if split else "several splits and none chosen"),
            f"one of {', '.join(splits)}",
            "name it with --split",
        )
    return path / chosen


class SavedDataset(RowSource):
    """A folder written by `Dataset.save_to_disk`."""

    kind = "saved data set"

    def __init__(self, path: Path) -> None:
        import datasets

        self.path = path
        try:
            self._dataset = datasets.load_from_disk(str(path))
        except Exception as error:
            raise DataError(
                f"{path}: {error}", "a folder written by datasets' save_to_disk", "write it again"
            ) from error
        self.num_rows = len(self._dataset)
        digest = hashlib.sha256()
        for file in sorted(path.glob("*.arrow")):
            digest.update(file_sha256(file).encode())
        self.sha256 = digest.hexdigest()

    def rows(self) -> Iterator[RawRow]:
        """All rows."""
        return (RawRow(index, dict(value)) for index, value in enumerate(self._dataset))
