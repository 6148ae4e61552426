"""Rows of text files: JSON lines, JSON arrays, and tables with a header. Compressed ones are read as they are."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from entangle_cli.data.compression import opened_bytes, opened_text
from entangle_cli.data.rows import READ_BYTES, FileSource, RawRow
from entangle_cli.errors import DataError


class JsonLines(FileSource):
    """One JSON value a line; blank lines are no rows, broken ones are rows with a problem."""

    kind = "JSON lines"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with opened_bytes(path) as file:
            self.num_rows = sum(bool(line.strip()) for line in file)

    def rows(self) -> Iterator[RawRow]:
        """All rows, one line in memory at a time."""
        index = 0
        with opened_bytes(self.path) as file:
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


class JsonArray(FileSource):
    """A JSON array of rows."""

    kind = "JSON array"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.num_rows = 0
        try:
            for _ in self.rows():
                self.num_rows += 1
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, after row {self.num_rows}: broken JSON: {error}",
                "one JSON array of rows",
                "repair the file, or write JSON lines",
            ) from error

    def rows(self) -> Iterator[RawRow]:
        """All rows, one in memory at a time."""
        with opened_text(self.path) as file:
            for index, (line, value) in enumerate(array_elements(file)):
                yield RawRow(index, value, line)


def array_elements(file: IO[str]) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array, each with the line on which it starts, from 1; read a piece at a time.

    Raises:
        ValueError: the text is no JSON array.
    """
    text = _ArrayText(file)
    text.take("[")
    if not text.takes("]"):
        while True:
            text.skip_space()
            yield text.line, text.value()
            if text.takes("]"):
                break
            text.take(",")
    text.skip_space()
    if not text.is_at_end():
        raise ValueError("there is more behind the array")


class _ArrayText:
    """A text that is read as far as it is needed."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._text = ""
        self._place = 0
        self._decode = json.JSONDecoder().raw_decode
        self.line = 1

    def _read(self) -> bool:
        """Read on; twice as much each time that one value needs more. False at the end."""
        rest = self._text[self._place :]
        more = self._file.read(max(READ_BYTES, len(rest)))
        self._text, self._place = rest + more, 0
        return bool(more)

    def _advance(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def skip_space(self) -> None:
        """Go on to what is no white space, or to the end."""
        while True:
            rest = self._text[self._place : self._place + 1]
            if rest and not rest.isspace():
                return
            if rest:
                self._advance(self._place + 1)
            elif not self._read():
                return

    def is_at_end(self) -> bool:
        """Whether nothing is left."""
        return self._place == len(self._text) and not self._read()

    def takes(self, mark: str) -> bool:
        """Go past a mark if it comes next."""
        self.skip_space()
        if not self._text.startswith(mark, self._place):
            return False
        self._advance(self._place + 1)
        return True

    def take(self, mark: str) -> None:
        """Go past a mark that must come next."""
        if not self.takes(mark):
            raise ValueError(f"line {self.line}: {mark!r} was expected")

    def value(self) -> Any:
        """The JSON value that comes next."""
        while True:
            try:
                value, end = self._decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if not self._read():
                    line = self.line + self._text.count("\n", self._place, error.pos)
                    raise ValueError(f"line {line}: {error.msg}") from error
                continue
            # A number at the end of what was read may go on.
            if end < len(self._text) or not self._read():
                self._advance(end)
                return value


class WrappedRows(FileSource):
    """A JSON object whose only list holds the rows, or that is the only row; read as a whole.

    Args:
        key: of the list; None where the object is the row.
    """

    kind = "JSON array"

    def __init__(self, path: Path, document: dict[str, Any], key: str | None) -> None:
        super().__init__(path)
        self._document = document
        self._key = key
        self._rows = [document] if key is None else document[key]
        self.num_rows = len(self._rows)

    def wrapped(self, rows: list[Any]) -> Any:
        """Other rows in the same wrapping; an array where there was none."""
        return rows if self._key is None else {**self._document, self._key: rows}

    def rows(self) -> Iterator[RawRow]:
        """All rows."""
        return (RawRow(index, value) for index, value in enumerate(self._rows))


def open_json(path: Path) -> FileSource:
    """A `.json` file: an array of rows, an object that wraps them, or JSON lines under another name."""
    with opened_bytes(path) as file:
        if file.read(READ_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            return JsonArray(path)
    if _is_one_a_line(path):
        return JsonLines(path)
    try:
        with opened_text(path) as text:
            document = json.load(text)
    except (ValueError, RecursionError):
        return JsonLines(path)
    if isinstance(document, dict):
        if "chosen" in document:
            return WrappedRows(path, document, None)
        lists = [name for name, value in document.items() if isinstance(value, list)]
        if len(lists) == 1 and all(isinstance(row, dict) for row in document[lists[0]]):
            return WrappedRows(path, document, lists[0])
        raise DataError(
            f"{path}: one JSON object with the keys {', '.join(map(str, document)) or 'none'}",
            "an array of rows, an object whose only list holds them, or an object a line",
            "write the rows as an array or as JSON lines",
        )
    return JsonLines(path)


def _is_one_a_line(path: Path) -> bool:
    """Whether the first line is a JSON value of its own, and others follow: no need to read the whole file at once."""
    with opened_bytes(path) as file:
        lines = (line for line in file if line.strip())
        first, second = next(lines, b""), next(lines, None)
        try:
            json.loads(first.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return False
        return second is not None


class Delimited(FileSource):
    """A CSV or TSV file with a header; a cell that holds a JSON list is read as that list."""

    kind = "CSV"

    def __init__(self, path: Path, delimiter: str) -> None:
        super().__init__(path)
        self._delimiter = delimiter
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
        with opened_text(self.path, newline="") as file:
            reader = csv.reader(file, delimiter=self._delimiter, strict=True)
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
