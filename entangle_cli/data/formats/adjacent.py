"""HelpSteer2 with one answer per row. The answers to one prompt are in adjacent rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from entangle_cli.data.fingerprint import Fingerprint
from entangle_cli.data.formats.format import finite_number
from entangle_cli.data.rows import RawRow, RowSource
from entangle_cli.records.settings import ReadingSettings

POINTWISE = "helpsteer2-pointwise"
COLUMNS = ("prompt", "response", "helpfulness")
TITLE = "HelpSteer2, one answer per row, by helpfulness"


def pairs_take_two_rows(source: RowSource, reading: ReadingSettings) -> bool:
    """Whether the answers to one prompt are in separate rows."""
    if reading.columns or reading.data_format not in (None, POINTWISE):
        return False
    first = next(iter(source.rows()), None)
    row = first.value if first is not None else None
    return isinstance(row, dict) and all(name in row for name in COLUMNS) and "chosen" not in row


class AdjacentRows(RowSource):
    """The rows of a data set with one answer per row, joined by prompt.

    A joined row has the index and line of its first row, and the columns `prompt` and `scored`, a list of answers with
    their helpfulness. Rows that cannot be parsed stay unchanged.

    Args:
        whole: the original rows.
    """

    def __init__(self, whole: RowSource) -> None:
        self.whole = whole
        self.location, self.name, self.files = whole.location, whole.name, whole.files
        self.kind = f"{whole.kind}, adjacent rows joined"
        self._indices = [row.index for row in self.rows()]
        self.num_rows = len(self._indices)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The identity of the original rows, plus a mark that rows were joined."""
        return {**self.whole.identity, "joined": POINTWISE}

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """Fingerprints of the original rows."""
        return self.whole.fingerprints

    @property
    def indices(self) -> Sequence[int]:
        """Index of the first row of every prompt."""
        return self._indices

    def rows(self) -> Iterator[RawRow]:
        """One row for every sequence of rows with the same prompt."""
        for _, group in groupby(self.whole.rows(), key=_prompt):
            yield _joined(list(group))


def _prompt(row: RawRow) -> Any:
    return row.value.get("prompt") if isinstance(row.value, dict) else row.index


def _joined(rows: list[RawRow]) -> RawRow:
    first = rows[0]
    if not isinstance(first.value, dict):
        return first
    answers = [
        {"answer": row.value.get("response"), "helpfulness": finite_number(row.value.get("helpfulness"))}
        for row in rows
    ]
    value = {"prompt": first.value.get("prompt"), "scored": answers}
    return RawRow(first.index, value, first.line, None, first.file, warnings=first.warnings)
