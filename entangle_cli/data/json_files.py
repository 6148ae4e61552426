"""Rows of JSON files. The content determines the layout, not the suffix: lines, an array, values, or one document."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar

from entangle_cli.data.compression import kind_suffix, lines_within, opened_bytes, opened_text
from entangle_cli.data.json_layouts import Layout, layout_of
from entangle_cli.data.json_text import Element, Parser, array_elements, values
from entangle_cli.data.rows import FileSource, RawRow
from entangle_cli.data.splits import chosen_split
from entangle_cli.errors import DataError
from entangle_cli.records.settings import LARGEST_ROW

LOOKED_AT_LINES = 20
"""Number of lines to inspect. A line with a complete JSON object indicates JSON lines, not a broken document."""

LINES_SUFFIXES = (".jsonl", ".ndjson")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _warnings(*, has_duplicate_key: bool) -> tuple[str, ...]:
    return ("W-DUPLICATE-KEY",) if has_duplicate_key else ()


class JsonLines(FileSource):
    """One JSON value per line. Blank lines are skipped, and broken lines become rows with a problem."""

    kind = "JSON lines"

    def __init__(self, path: Path, max_row_bytes: int = LARGEST_ROW) -> None:
        super().__init__(path)
        self._limit = max_row_bytes
        with opened_bytes(path) as file:
            self.num_rows = sum(
                bool(line.strip()) or not is_whole for line, is_whole in lines_within(file, self._limit)
            )

    def rows(self) -> Iterator[RawRow]:
        """All rows, with one line in memory at a time."""
        index, parser = 0, Parser()
        with opened_bytes(self.path) as file:
            for number, (line, is_whole) in enumerate(lines_within(file, self._limit), start=1):
                if not is_whole:
                    yield RawRow(
                        index, None, number, f"more than {self._limit:,} bytes; --max-row-bytes raises the limit"
                    )
                elif line.strip():
                    yield _row_of_line(index, number, line, parser)
                else:
                    continue
                index += 1


def _row_of_line(index: int, number: int, line: bytes, parser: Parser) -> RawRow:
    parser.reset()
    try:
        # Past a line break, a decoder counts columns from 1 again.
        value = parser.loads(line.decode("utf-8-sig").rstrip("\r\n"))
        return RawRow(index, value, number, warnings=_warnings(has_duplicate_key=parser.has_duplicate_key))
    except UnicodeDecodeError as error:
        return RawRow(index, None, number, f"invalid UTF-8 at byte {error.start} of the line")
    except json.JSONDecodeError as error:
        return RawRow(index, None, number, f"broken JSON at column {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:
        return RawRow(index, None, number, f"unreadable JSON: {error}")


class _Elements(FileSource):
    """JSON values that are read one by one. A broken value is an error for the whole file."""

    expected: ClassVar[str]

    def __init__(self, path: Path, max_row_bytes: int = LARGEST_ROW) -> None:
        super().__init__(path)
        self._limit = max_row_bytes
        self.num_rows = 0
        last_line, self._has_lines = 0, True
        try:
            for element in self._elements():
                self.num_rows += 1
                # If a line holds several rows, line numbers do not identify rows.
                self._has_lines = self._has_lines and element.line > last_line
                last_line = element.line
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, after row {self.num_rows}: broken JSON: {error}",
                self.expected,
                "fix the JSON there, or save the rows as JSON lines",
            ) from error

    @staticmethod
    @abstractmethod
    def _read(file: IO[str], limit: int) -> Iterator[Element]:
        """The values of a text."""

    def _elements(self) -> Iterator[Element]:
        with opened_text(self.path) as file:
            yield from self._read(file, self._limit)

    def rows(self) -> Iterator[RawRow]:
        """All rows, with one row in memory at a time."""
        for index, element in enumerate(self._elements()):
            line = element.line if self._has_lines else None
            yield RawRow(index, element.value, line, warnings=_warnings(has_duplicate_key=element.has_duplicate_key))


class JsonArray(_Elements):
    """A JSON array of rows."""

    kind = "JSON array"
    expected = "one JSON array of rows"
    _read = staticmethod(array_elements)


class JsonValues(_Elements):
    """Consecutive JSON objects that may span several lines."""

    kind = "JSON objects"
    expected = "consecutive JSON objects"
    _read = staticmethod(values)


class JsonDocument(FileSource):
    """One JSON object with all rows. The whole document is read at once.

    Args:
        layout: layout of the rows in the object.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        super().__init__(path)
        self.layout = layout
        self.kind = f"JSON, {layout.title}"
        self.num_rows = len(layout.rows)

    def rows(self) -> Iterator[RawRow]:
        """All rows."""
        return (RawRow(index, value) for index, value in enumerate(self.layout.rows))


LARGEST_DOCUMENT = 512 * 2**20
"""Limit in characters on a JSON object with all rows, because it is read at once."""


def open_json(path: Path, split: str | None = None, max_row_bytes: int = LARGEST_ROW) -> FileSource:
    """Open a JSON file with the layout of its content.

    Args:
        split: the split to read from a document with several; None if there is only one.
        max_row_bytes: limit on a row.
    Raises:
        DataError: the file is broken or has no rows, or it has several splits and none was chosen.
    """
    first = _first_lines(path, max_row_bytes)
    lines = [line for line, _ in first]
    is_first_too_long = len(lines) > 1 and not first[0][1] and all(line.startswith(b"{") for line in lines)
    if is_first_too_long or (len(lines) > 1 and _is_value(lines[0])):
        return JsonLines(path, max_row_bytes)
    start = lines[0][:1] if lines else b""
    if start == b"[" and not (len(lines) > 1 and _is_object(lines[1])):
        return JsonArray(path, max_row_bytes)
    if start != b"{":
        return JsonLines(path, max_row_bytes)
    try:
        with opened_text(path) as text:
            documents = [element.value for element in islice(values(text, LARGEST_DOCUMENT), 2)]
    except (ValueError, RecursionError):
        documents = []
    if len(documents) == 1 and isinstance(documents[0], dict):
        return _open_document(path, documents[0], split, max_row_bytes, is_one_line=len(lines) == 1)
    if len(lines) == 1 or any(map(_is_object, lines[1:])):
        return JsonLines(path, max_row_bytes)
    return JsonValues(path, max_row_bytes)


def _open_document(
    path: Path, document: dict[str, Any], split: str | None, max_row_bytes: int, *, is_one_line: bool
) -> FileSource:
    layout = layout_of(document, split)
    # One object on one line may also be a row of JSON lines. The suffix decides.
    is_line = is_one_line and kind_suffix(path) in LINES_SUFFIXES
    if isinstance(layout, Layout) and not (is_line and layout.title in ("one row", "wrapped")):
        return JsonDocument(path, layout)
    if is_line:
        return JsonLines(path, max_row_bytes)
    if isinstance(layout, list):
        chosen_split(str(path), split, layout)
    raise DataError(
        f"{path}: one JSON object with the keys {', '.join(map(str, document)) or 'none'}",
        "an array of rows, an object with one list of rows or as written by pandas, or one object per line",
        "save the rows as an array or as JSON lines",
    )


def _first_lines(path: Path, limit: int) -> list[tuple[bytes, bool]]:
    """The first non-blank lines, stripped, and whether each is complete. Lines longer than `limit` bytes are cut."""
    first: list[tuple[bytes, bool]] = []
    with opened_bytes(path) as file:
        for number, (line, is_whole) in enumerate(lines_within(file, limit)):
            start = (line if number else line.removeprefix(BYTE_ORDER_MARK)).strip()
            if start:
                first.append((start, is_whole))
            if len(first) == LOOKED_AT_LINES:
                break
    return first


def _is_value(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_object(line: bytes) -> bool:
    return line[:1] == b"{" and _is_value(line)
