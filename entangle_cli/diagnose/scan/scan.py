"""The scan: measures the pairs of a data set with a model and returns one record per pair."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from entangle_cli.data.pairs import PairReader, PreferencePair, SkippedRow
from entangle_cli.data.rows import RowSource
from entangle_cli.diagnose.scan.description import about_scan, scan_identity, scan_plan
from entangle_cli.diagnose.scan.estimate import Cost, estimate
from entangle_cli.diagnose.scan.known_pairs import KnownPairs
from entangle_cli.diagnose.scan.row_preparation import Preparation, Window, resolved_length
from entangle_cli.diagnose.scan.row_reader import RowReader
from entangle_cli.diagnose.scan.row_records import PreparedRow, skipped_record
from entangle_cli.diagnose.views.first_rows import place_of
from entangle_cli.engine.batch import plan_batches
from entangle_cli.errors import DataError, UnfinishedError
from entangle_cli.records.model_description import ModelDescription
from entangle_cli.records.pair import PairRecord, RecordBatch, RowKey, row_key
from entangle_cli.records.plan import ScanEstimate
from entangle_cli.records.run import Run
from entangle_cli.records.settings import ScanSettings
from entangle_cli.records.words import counted


@dataclass(frozen=True, slots=True)
class LostRow:
    """A row that could not be measured and was given up."""

    pair: PreferencePair
    reason: str


MOST_NAMED = 10
"""Rows that an error names."""


class ScanModel(Protocol):
    """A model that measures batches: in this process, or in several workers."""

    @property
    def description(self) -> ModelDescription:
        """What the scan needs to know about it."""

    @property
    def num_workers(self) -> int:
        """Number of processes that measure."""

    def preparation(self, pairs: PairReader, settings: ScanSettings) -> Preparation:
        """Makes tokenised pairs of rows."""

    def records(self, batches: Iterable[Sequence[PreparedRow]]) -> Iterator[RecordBatch]:
        """The records of batches, in any order. Takes few batches ahead.

        Some results are empty, to return control to the caller: one for every empty batch, and some while it waits.
        """

    def cost(self, longest: Sequence[PreparedRow], typical: Sequence[PreparedRow]) -> Cost:
        """What two batches cost."""

    @property
    def lost_rows(self) -> Sequence[LostRow]:
        """Rows that could not be measured and were given up."""


@dataclass(frozen=True, slots=True)
class OpenedData:
    """A data set that is ready to be read."""

    source: RowSource
    pairs: PairReader
    """Extracts the pairs from its rows."""
    formats: tuple[str, ...]
    """Formats recognised in the first rows."""


class Scan:
    """A scan that is ready to start, created by `open_scan`.

    Attributes:
        plan: the recognised inputs and the planned work.
        identity: everything that determines the numbers.
        about: the rest of the manifest, JSON-able: loss, plan, tokenizer, versions and hardware.
        reader: reads the selected rows.
    """

    def __init__(self, model: ScanModel, data: OpenedData, settings: ScanSettings) -> None:
        about = model.description
        settings = replace(
            settings,
            parameters=about.parameters,
            max_length=resolved_length(settings.max_length, about.context),
        )
        self._model = model
        self._known: KnownPairs | None = None
        self.reader = RowReader(data.source, data.pairs, model.preparation(data.pairs, settings), settings)
        self.plan = scan_plan(about, data.source, data.formats, settings, self.reader.num_selected, model.num_workers)
        self.identity = scan_identity(self.reader.identity, about, settings)
        self.about: dict[str, Any] = about_scan(self.plan, about, settings)

    def reuse_pairs(self, run: Run) -> None:
        """Reuse the pairs of a run instead of measuring them again.

        Raises:
            UsageError: the run has a different model or settings, or this scan measures layers.
        """
        self._known = KnownPairs(run, self.identity)

    def records(self, done: Container[RowKey] = (), rows: Sequence[int] | None = None) -> Iterator[RecordBatch]:
        """Batches of records for the pairs of the selected rows, except those in `done`. Some may be empty.

        Args:
            done: keys of the existing records.
            rows: indices of the rows to measure; None for all selected rows.
        Raises:
            DataError: a row cannot be measured and the settings are strict.
            UnfinishedError: a pair does not fit into memory, or its workers died. Other pairs may still be measured.
        """
        unmeasured: list[PairRecord] = []
        for batch in self._model.records(self._missing_batches(done, rows, unmeasured)):
            if unmeasured:
                yield RecordBatch([*unmeasured])
                unmeasured.clear()
            yield batch
        self._refuse_lost_rows()

    def _refuse_lost_rows(self) -> None:
        if not (lost := self._model.lost_rows):
            return
        named = [f"{place_of(row.pair, self.reader.source)}: {row.reason}" for row in lost[:MOST_NAMED]]
        more = f"; and {counted(len(lost) - len(named), 'more row')}" if len(lost) > len(named) else ""
        raise UnfinishedError(
            f"{counted(len(lost), 'row')} not measured: {'; '.join(named)}{more}",
            "rows that a worker can measure",
            "remove them, or run the same command again to retry them; if memory ran out, lower --max-length",
        )

    def _missing_batches(
        self, done: Container[RowKey], rows: Sequence[int] | None, unmeasured: list[PairRecord]
    ) -> Iterator[list[PreparedRow]]:
        """The batches to measure, without the rows in `done`. An empty batch follows every window.

        Args:
            unmeasured: receives the records of the other pairs: skipped and reused ones.
        """
        for window in self.reader.windows(rows):
            records = [skipped_record(row) for row in window if isinstance(row, SkippedRow)]
            if self._known is not None:
                window, known = self._without_known(window, self._known)
                records += known
            unmeasured += [record for record in records if row_key(record) not in done]
            for batch in self.batches(window):
                if missing := [row for row in batch if row_key(row.pair) not in done]:
                    yield missing
            yield []

    def refuse_other_data(self, num_rows: int) -> None:
        """Check after the last row that the data set is unchanged and was read completely.

        Args:
            num_rows: number of rows with a record.
        Raises:
            DataError: the data changed, or the number of rows differs from the plan.
        """
        self.reader.refuse_changed()
        if num_rows != self.plan.num_selected:
            raise DataError(
                f"{self.plan.data}: read {num_rows:,} of {self.plan.num_selected:,} rows",
                "all rows counted at the start",
                "check that no other program writes to the data, then run the command again",
            )

    @staticmethod
    def _without_known(window: Window, known: KnownPairs) -> tuple[Window, list[PairRecord]]:
        """The rows of a window that must be measured, and the reused records of the others."""
        to_measure: Window = []
        records = []
        for row in window:
            record = None if isinstance(row, SkippedRow) else known.record(row)
            if record is None:
                to_measure.append(row)
            else:
                records.append(record)
        return to_measure, records

    def estimate(self) -> ScanEstimate:
        """Estimate the time and memory of the whole scan from two batches of the first rows.

        Raises:
            DataError: none of the first rows can be measured.
        """
        window = self.reader.first_window()
        num_rows = self.plan.num_selected / self.plan.num_workers
        return estimate(self._model.cost, self.batches(window), len(window), num_rows)

    def batches(self, window: Window) -> list[list[PreparedRow]]:
        """Batches of the rows in a window that can be measured, longest first."""
        prepared = [row for row in window if isinstance(row, PreparedRow)]
        positions = plan_batches([row.tokens.pair for row in prepared], self.plan.batch_tokens)
        return [[prepared[position] for position in batch] for batch in positions]
