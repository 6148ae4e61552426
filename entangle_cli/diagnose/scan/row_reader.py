"""Reads the selected rows of a data set as pairs of token ids, one window at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from entangle_cli.data.pairs import PairReader, PreferencePair, SkippedRow
from entangle_cli.data.rows import RowSource
from entangle_cli.data.traps import text_of
from entangle_cli.diagnose.scan.row_preparation import Preparation, Window
from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.diagnose.selected_rows import selected_rows
from entangle_cli.diagnose.views.first_rows import place_of
from entangle_cli.errors import DataError
from entangle_cli.records.settings import ReadingSettings, ScanSettings

WINDOW_PAIRS = 512
"""Pairs per window. Batches are formed by length within a window. Fixed: a resumed run must form the same batches."""

WINDOW_CHARACTERS = 64 * 2**20
"""Characters of text at which a window ends early."""


class RowReader:
    """Reads the selected rows, and has them prepared.

    Args:
        source: the data set.
        pairs: extracts the pairs from its rows.
        preparation: makes tokenised pairs of its rows.
        settings: settings of the scan.

    Attributes:
        source: the data set.
        pairs: extracts the pairs from its rows.
    """

    def __init__(self, source: RowSource, pairs: PairReader, preparation: Preparation, settings: ScanSettings) -> None:
        self.source = source
        self.pairs = pairs
        self._prepared = preparation
        self._is_strict = settings.strict
        self._selected = selected_rows(source.indices, settings.limit, settings.sample, settings.seed, settings.shard)
        self._seed = settings.seed

    @property
    def num_selected(self) -> int:
        """Number of selected rows."""
        return len(self._selected)

    @property
    def identity(self) -> dict[str, Any]:
        """The data set's name, hash and rows, JSON-able."""
        return {**self.source.identity, **self.pairs.identity}

    def in_random_order(self) -> list[int]:
        """The indices of the selected rows, shuffled with the seed of the settings."""
        return random.Random(self._seed).sample(self._selected, len(self._selected))

    def windows(self, rows: Sequence[int] | None = None) -> Iterator[Window]:
        """Windows of rows in the order of the data. A background thread prepares the next window.

        Args:
            rows: indices of the rows to read; None for all selected rows.
        Raises:
            DataError: a row cannot be measured and the settings are strict.
        """
        remaining_rows = self._rows(rows)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="entangle-data") as background:
            next_window = background.submit(self._next_window, remaining_rows)
            while window := next_window.result():
                next_window = background.submit(self._next_window, remaining_rows)
                for row in window:
                    self._refuse_if_strict(row)
                yield window

    def refuse_changed(self) -> None:
        """Check that the data set has not changed since it was hashed.

        Raises:
            DataError: the data set has changed.
        """
        self.source.refuse_changed()

    def check(self) -> None:
        """Read the first row, to detect an unusable tokenizer before the run starts.

        Raises:
            ModelError: the row is a conversation and the tokenizer has no chat template.
        """
        next(self._rows(self._selected[:1]), None)

    def first_window(self) -> Window:
        """The first window of selected rows."""
        return self._next_window(self._rows())

    def pairs_of(self, index: int) -> Window:
        """The pairs of one row; empty if the row does not exist."""
        return next(self._rows([index]), [])

    def _rows(self, wanted: Sequence[int] | None = None) -> Iterator[Window]:
        """The pairs of each row."""
        return self._prepared(self.source.rows_at(self._selected if wanted is None else wanted))

    @staticmethod
    def _next_window(rows: Iterator[Window]) -> Window:
        window: Window = []
        num_characters = 0
        while (
            len(window) < WINDOW_PAIRS and num_characters < WINDOW_CHARACTERS and (row := next(rows, None)) is not None
        ):
            num_characters += sum(_num_characters(each.pair) for each in row if isinstance(each, PreparedRow))
            window += row
        return window

    def _refuse_if_strict(self, row: PreparedRow | SkippedRow) -> None:
        if self._is_strict and isinstance(row, SkippedRow):
            raise DataError(
                f"{place_of(row, self.source)}: {row.reason}: {row.detail}",
                "only rows that can be measured (--strict)",
                "fix the row, or remove --strict to skip and count such rows",
            )


def _num_characters(pair: PreferencePair) -> int:
    return sum(len(text_of(part)) for part in (pair.prompt, pair.chosen, pair.rejected))


def pair_reader(source: RowSource, reading: ReadingSettings) -> PairReader:
    """The reader that extracts the pairs from a source's rows.

    Raises:
        UsageError: a setting is unknown.
        DataError: the description file next to the data cannot be used.
    """
    return PairReader(reading, source.files, source.readings)
