"""Reads rows one by one."""

from __future__ import annotations

from entangle_cli.data.pairs import PairReader, PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.records.settings import ReadingSettings


def only_pair(row: RawRow, data_format: str | None = None) -> PreferencePair | SkippedRow:
    """The only pair of a row, or the reason that there is none."""
    (found,) = PairReader(ReadingSettings(data_format=data_format)).read(row)
    return found
