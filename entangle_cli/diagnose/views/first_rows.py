"""The first rows of a data set, looked at before a model is loaded: what they are, and whether a map fits them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import islice

from entangle_cli.data.formats.column_map import has_column
from entangle_cli.data.formats.column_map import suggested_map as suggested_map
from entangle_cli.data.pairs import PairReader, PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow, RowSource
from entangle_cli.errors import DataError, UsageError
from entangle_cli.records.settings import ReadingSettings

PEEKED_ROWS = 200
"""Rows looked at before the start, to say what was recognised."""


def peeked_formats(source: RowSource, pairs: PairReader, reading: ReadingSettings) -> tuple[str, ...]:
    """Formats of the first rows, in order of appearance.

    Raises:
        UsageError: `--map` names a column that none of them has.
        DataError: none of them holds a pair.
    """
    rows = list(islice(source.rows(), PEEKED_ROWS))
    refuse_unknown_columns(source, rows, reading)
    formats: dict[str, None] = {}
    first_problem = ""
    holds_pair = False
    for row in rows:
        for result in pairs.read(row):
            if isinstance(result, SkippedRow):
                first_problem = first_problem or f"{place_of(result, source)}: {result.detail}"
                holds_pair = holds_pair or result.holds_pair
            else:
                formats[result.format] = None
    if not formats and not holds_pair:
        columns = dict.fromkeys(name for row in rows if isinstance(row.value, dict) for name in row.value)
        raise DataError(
            f"{source.location}: no preference pair in the first {len(rows)} rows; {first_problem}",
            'rows with "chosen" and "rejected", and a "prompt" unless the two start with it',
            f"name the columns, if these are the right ones: {suggested_map(columns)}"
            if columns
            else "check that it is the data file, and that it was copied completely",
        )
    return tuple(formats)


def refuse_unknown_columns(source: RowSource, rows: Sequence[RawRow], reading: ReadingSettings) -> None:
    """Refuse a map with a column that none of the first rows has.

    Args:
        rows: the first rows of the source.
    Raises:
        UsageError: the map names a column that no row has.
    """
    for number, each in enumerate(source.readings or [reading]):
        _refuse_unknown_columns([row for row in rows if row.source == number or not source.readings], each)


def _refuse_unknown_columns(rows: Sequence[RawRow], reading: ReadingSettings) -> None:
    values = [row.value for row in rows if isinstance(row.value, dict)]
    names = list(dict.fromkeys(name for value in values for name in value))
    for role, column in reading.columns.items():
        if values and not any(has_column(value, column) for value in values):
            near = difflib.get_close_matches(column, names, n=1)
            # A column that no name is close to may still be what the suggestion takes.
            words = f"--map {role}={near[0]}" if near else suggested_map(names)
            raise UsageError(
                f"--map {role}={column}: no column {column!r}; columns: {', '.join(map(str, names)) or 'none'}",
                "a column of the data, or a path into one such as meta.answer or output.0",
                f"try {words}",
            )


def place_of(row: SkippedRow | PreferencePair, source: RowSource) -> str:
    """File and line of a row, or its number where the format has no lines."""
    return f"{row.file or source.location}, " + (f"line {row.line}" if row.line is not None else f"row {row.index}")
