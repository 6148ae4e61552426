"""Decides which batch a worker measures next, and what becomes of the batches of a worker that died.

A worker has up to `BATCHES_PER_WORKER` batches: it measures one while the next one waits. The batches of a worker that
died are measured again. Such a batch is a suspect and gets a worker to itself. A second death is then certainly its
own. After it, its rows are measured one by one. A row is given up after it was part of `MOST_DEATHS` deaths.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.diagnose.scan.scan import LostRow
from entangle_cli.errors import EntangleError, UnfinishedError

BATCHES_PER_WORKER = 2
DEATHS_OF_A_BATCH = 2
MOST_DEATHS = 4
FRUITLESS_DEATHS = 16
"""Deaths in a row, without a measured batch, that end the scan. The cause is then no single row."""
FRUITLESS_FAILURES = 100
"""The same for batches that workers could not measure."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to measure together."""

    rows: Sequence[PreparedRow]
    deaths: int = 0
    """Workers that died while they had these rows."""
    has_failed: bool = False
    """Whether a worker could not measure this one row, and lived."""

    @property
    def is_suspect(self) -> bool:
        """Whether something happened to it before."""
        return self.deaths > 0 or self.has_failed


@dataclass(slots=True)
class Dealer:
    """Deals the batches of a scan.

    Attributes:
        lost: rows that were given up.
    """

    num_workers: int
    lost: list[LostRow] = field(default_factory=list)
    _suspects: deque[Batch] = field(default_factory=deque)
    _deaths_in_a_row: int = 0
    _failures_in_a_row: int = 0

    def next_batch(self, held: Sequence[Batch], new: Iterator[Sequence[PreparedRow]]) -> Batch | None:
        """The next batch for a worker; None if it gets none now.

        Args:
            held: the batches that the worker has.
            new: batches that no worker had yet. An empty one is returned as it is.
        """
        if self._suspects:
            # Fresh batches wait until a worker is idle. Otherwise the suspects would be last.
            return None if held else self._suspects.popleft()
        if len(held) >= BATCHES_PER_WORKER or any(batch.is_suspect for batch in held):
            return None
        rows = next(new, None)
        return None if rows is None else Batch(rows)

    def succeeded(self) -> None:
        """Note that a batch was measured."""
        self._deaths_in_a_row = self._failures_in_a_row = 0

    def take_back(self, batches: Sequence[Batch]) -> None:
        """Take back batches that a worker did not begin to measure."""
        self._suspects += batches

    def died(self, batches: Sequence[Batch], reason: str) -> None:
        """Take back the batches of a worker that died.

        Raises:
            UnfinishedError: workers die again and again, and measure nothing in between.
        """
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > FRUITLESS_DEATHS + 2 * self.num_workers:
            raise UnfinishedError(
                f"workers died {self._deaths_in_a_row} times and measured nothing in between; the last one: {reason}",
                "workers that can measure a batch",
                "rerun the same command without --workers to see the cause",
            )
        for batch in batches:
            deaths = batch.deaths + 1
            if deaths >= MOST_DEATHS:
                self.lost += [LostRow(row.pair, reason) for row in batch.rows]
            elif deaths >= DEATHS_OF_A_BATCH:
                self._suspects += [Batch([row], deaths) for row in batch.rows]
            else:
                self._suspects.append(Batch(batch.rows, deaths))

    def failed(self, batch: Batch, error: EntangleError) -> None:
        """Take back a batch that a worker could not measure, for example because memory ran out.

        Its rows are measured one by one. A row that fails alone is tried once more, and then given up.

        Raises:
            EntangleError: many failures in a row. The cause is then no single row.
        """
        self._failures_in_a_row += 1
        if self._failures_in_a_row > FRUITLESS_FAILURES:
            raise error
        if len(batch.rows) == 1 and batch.has_failed:
            self.lost.append(LostRow(batch.rows[0].pair, error.found))
        else:
            is_alone = len(batch.rows) == 1
            self._suspects += [Batch([row], batch.deaths, has_failed=is_alone) for row in batch.rows]
