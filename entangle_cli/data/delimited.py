"""Rows of CSV and TSV files."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from entangle_cli.data.compression import opened_text
from entangle_cli.data.rows import FileSource, RawRow
from entangle_cli.errors import DataError
from entangle_cli.records.settings import LARGEST_ROW

OTHER_NAMES = {"\t": "rename it to .tsv", ",": "rename it to .csv"}
OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}


@dataclass(frozen=True, slots=True)
class Record:
    """A row of cells, and its source text."""

    line: int
    """Line where it begins, from 1."""
    cells: list[str]
    text: str
    """Source text with its quotes and line ends."""


class Delimited(FileSource):
    """A CSV or TSV file with a header. A cell with a JSON list of messages is parsed.

    Attributes:
        delimiter: the cell delimiter.
    Raises:
        DataError: the file is not valid UTF-8 or CSV, has a duplicate column, or uses another delimiter.
    """

    kind = "CSV"

    def __init__(self, path: Path, delimiter: str, max_row_bytes: int = LARGEST_ROW) -> None:
        super().__init__(path)
        self.delimiter = delimiter
        self._limit = max_row_bytes
        # Python's limit of 128 KiB per cell is too small for many answers. Ours applies to the row.
        csv.field_size_limit(max(csv.field_size_limit(), max_row_bytes))
        try:
            self._refuse_header()
            self.num_rows = sum(1 for _ in self.rows())
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: {error}",
                "UTF-8 text",
                f"convert it, if it is Latin-1: iconv -f LATIN1 -t UTF-8 {path.name} > utf8{path.suffix}",
            ) from error
        except csv.Error as error:
            raise DataError(
                f"{path}: {error}",
                'one header line, closed quotes, and doubled quotes within a cell: "he said ""hi"""',
                "fix the quotes in the file, or convert it to JSON lines",
            ) from error

    def _refuse_header(self) -> None:
        """Refuse duplicate columns, and a delimiter that does not match the file's suffix."""
        header = next(self.records(), None)
        if header is None:
            return
        if duplicates := [name for name, count in Counter(header.cells).items() if count > 1]:
            raise DataError(
                f"{self.path}: duplicate column {duplicates[0]!r}", "unique column names", "rename one of them"
            )
        if len(header.cells) > 1:
            return
        for other, name in OTHER_DELIMITERS.items():
            if other in header.cells[0]:
                raise DataError(
                    f"{self.path}: columns separated by {name}",
                    f"columns separated by {OTHER_DELIMITERS[self.delimiter]}",
                    OTHER_NAMES.get(other, "save it with commas, or as JSON lines"),
                )

    def records(self) -> Iterator[Record]:
        """The header and all rows. Blank lines are skipped.

        Raises:
            csv.Error: the file is not valid CSV.
            UnicodeDecodeError: the file is not UTF-8.
        """
        with opened_text(self.path, newline="") as file:
            lines = _KeptLines(file, self._limit)
            reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
            end = 0
            for cells in reader:
                start, end = end + 1, reader.line_num
                text = lines.taken()
                if cells:
                    yield Record(start, cells, text)

    def rows(self) -> Iterator[RawRow]:
        """All rows, each with the line where it starts."""
        records = self.records()
        header = next(records, Record(1, [], "")).cells
        for index, record in enumerate(records):
            yield self._row(index, record.line, header, record.cells)

    @staticmethod
    def _row(index: int, line: int, header: list[str], cells: list[str]) -> RawRow:
        if len(cells) > len(header):
            return RawRow(index, None, line, f"{len(cells) - len(header)} more cells than the header")
        if missing := header[len(cells) :]:
            return RawRow(index, None, line, f"no cell for {', '.join(missing)}")
        return RawRow(index, {name: _messages_or_text(cell) for name, cell in zip(header, cells, strict=True)}, line)


class _KeptLines:
    """The lines of a file, kept until the next call of `taken`."""

    def __init__(self, file: IO[str], limit: int) -> None:
        self._file = file
        self._limit = limit
        self._lines: list[str] = []
        self._length = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(self._limit + 1):
            self._length += len(line.rstrip("\r\n"))
            if self._length > self._limit:
                raise csv.Error(f"a row of more than {self._limit:,} characters; --max-row-bytes raises the limit")
            self._lines.append(line)
            yield line

    def taken(self) -> str:
        """The text read since the last call."""
        text = "".join(self._lines)
        self._lines.clear()
        self._length = 0
        return text


def _messages_or_text(cell: str) -> Any:
    """Parse a cell if it is a list of messages. Any other JSON may be an answer and stays text."""
    if not cell.lstrip().startswith("[{"):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    is_messages = all(isinstance(item, dict) and ("role" in item or "from" in item) for item in value)
    return value if is_messages else cell
