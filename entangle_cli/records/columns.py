"""A run's pairs by column, and one value of a column as it stands in a record.

Columns are numpy arrays: text as objects with None for null, everything else float64 with NaN for null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from entangle_cli.records.pair import PAIR_FIELDS, Kind

Columns = Mapping[str, Any]
"""Name of a field of `PairRecord` to a numpy array, in the order of `index`."""

FIELD_NAMES = tuple(PAIR_FIELDS)


def plain_value(name: str, value: Any) -> Any:
    """One value of a column as a record holds it: str, int, float, bool or None; what is not finite becomes None."""
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
    """Each row as a mapping of every field of `PairRecord`; None for fields without a column."""
    present = [(name, columns[name]) for name in FIELD_NAMES if name in columns]
    absent = dict.fromkeys(name for name in FIELD_NAMES if name not in columns)
    for place in range(len(columns["index"])):
        found = {name: plain_value(name, column[place]) for name, column in present}
        yield {name: found.get(name) for name in FIELD_NAMES} if absent else found


def taken(columns: Columns, places: Any) -> dict[str, Any]:
    """The columns at some places, or where a mask is true."""
    return {name: column[places] for name, column in columns.items()}
