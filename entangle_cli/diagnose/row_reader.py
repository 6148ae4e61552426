"""The selected rows of a data set as pairs of token ids, a window at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from entangle_cli.data.checkpoint import Checkpoint
from entangle_cli.data.pairs import SkippedRow, read_pair
from entangle_cli.data.rows import RawRow, RowSource
from entangle_cli.data.tokenize import TokenSettings, Truncation, tokenize_pair
from entangle_cli.diagnose.row_records import PreparedRow
from entangle_cli.errors import DataError
from entangle_cli.records import ScanSettings

WINDOW_ROWS = 512
"""Rows among which batches are formed by length. Fixed, so that a run that goes on forms the same batches."""

Window = list[PreparedRow | SkippedRow]


class RowReader:
    """Reads and tokenises the rows that the settings select.

    Args:
        source: the data set.
        checkpoint: whose tokenizer reads it.
    """

    def __init__(self, source: RowSource, checkpoint: Checkpoint, settings: ScanSettings) -> None:
        self._source = source
        self._tokenizer = checkpoint.tokenizer
        self._is_strict = settings.strict
        self._data_format = settings.data_format
        self._selected = selected_rows(source.num_rows, settings)
        self._tokens = TokenSettings(
            settings.max_length,
            Truncation(settings.truncation),
            checkpoint.position_limit,
            getattr(checkpoint.model.get_input_embeddings(), "num_embeddings", None),
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The data set's name, hash and rows, JSON-able."""
        return {"name": self._source.path.name, "sha256": self._source.sha256, "rows": self._source.num_rows}

    def windows(self) -> Iterator[Window]:
        """All selected rows; the next window is prepared in the background while one is in use.

        Raises:
            DataError: a row that cannot be measured, when the settings are strict.
        """
        rows = self._rows()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="entangle-data") as background:
            coming = background.submit(self._next_window, rows)
            while window := coming.result():
                coming = background.submit(self._next_window, rows)
                for row in window:
                    self._refuse_if_strict(row)
                yield window

    def check(self) -> None:
        """Read the first row, so that a tokenizer that cannot read any is told before a run is begun.

        Raises:
            ModelError: a conversation, and the tokenizer has no chat template.
        """
        for row in islice(self._rows(), 1):
            self._prepare(row)

    def first_window(self) -> Window:
        """The first selected rows."""
        return self._next_window(self._rows())

    def _rows(self) -> Iterator[RawRow]:
        return (row for row in self._source.rows() if row.index in self._selected)

    def _next_window(self, rows: Iterator[RawRow]) -> Window:
        return [self._prepare(row) for row in islice(rows, WINDOW_ROWS)]

    def _prepare(self, row: RawRow) -> PreparedRow | SkippedRow:
        pair = read_pair(row, self._data_format)
        if isinstance(pair, SkippedRow):
            return pair
        tokens = tokenize_pair(pair, self._tokenizer, self._tokens)
        return tokens if isinstance(tokens, SkippedRow) else PreparedRow(pair, tokens)

    def _refuse_if_strict(self, row: PreparedRow | SkippedRow) -> None:
        if self._is_strict and isinstance(row, SkippedRow):
            place = f"line {row.line}" if row.line is not None else f"row {row.index}"
            raise DataError(
                f"{self._source.path}, {place}: {row.reason}: {row.detail}",
                "only rows that can be measured (--strict)",
                "repair the row, or leave --strict out to skip and count such rows",
            )


def selected_rows(num_rows: int, settings: ScanSettings) -> range | frozenset[int]:
    """Indices of the rows that count."""
    candidates = range(num_rows if settings.limit is None else min(num_rows, settings.limit))
    if settings.sample is None or settings.sample >= len(candidates):
        return candidates
    return frozenset(random.Random(settings.seed).sample(candidates, settings.sample))
