"""A run's pairs as columns, and their conversion to records.

Columns are numpy arrays. Text columns hold objects with None for null; all others are float64 with NaN for null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from entangle_cli.records.pair import PAIR_FIELDS, Kind

Columns = Mapping[str, Any]
"""`PairRecord` field name to a numpy array, ordered by `index`."""

FIELD_NAMES = tuple(PAIR_FIELDS)


def plain_value(name: str, value: Any) -> Any:
    """Convert one column value for a record: str, int, float, bool or None. Non-finite numbers become None."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    if not isfinite(number):
        return None
    kind = PAIR_FIELDS[name].kind
    if kind is Kind.FLAG:
        return bool(number)
    return int(number) if kind is Kind.COUNT else number


def rows_of(columns: Columns) -> Iterator[dict[str, Any]]:
    """Every row as a mapping with all fields of `PairRecord`; None for fields without a column."""
    present = [(name, columns[name]) for name in FIELD_NAMES if name in columns]
    absent = dict.fromkeys(name for name in FIELD_NAMES if name not in columns)
    for position in range(len(columns["index"])):
        row = {name: plain_value(name, column[position]) for name, column in present}
        yield {name: row.get(name) for name in FIELD_NAMES} if absent else row


def taken(columns: Columns, rows: Any) -> dict[str, Any]:
    """Select rows of all columns, by positions or by a boolean mask."""
    return {name: column[rows] for name, column in columns.items()}
