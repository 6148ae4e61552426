"""Turns prepared rows into records with the engine. Splits a batch if memory runs out, and remembers the size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import inf

from entangle_cli.diagnose.scan.budget import within_memory
from entangle_cli.diagnose.scan.row_records import (
    PreparedRow,
    layer_records,
    pair_record,
    with_text,
    without_shared_prefix,
)
from entangle_cli.diagnose.views.movements import derived_fields
from entangle_cli.engine.batch import padded_tokens
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.scorer import Scorer
from entangle_cli.errors import UnfinishedError
from entangle_cli.records.measurement import TokenizedPair
from entangle_cli.records.pair import PairRecord, RecordBatch
from entangle_cli.records.settings import ScanSettings

Started = Callable[[], RecordBatch]
"""A batch that runs. Calling it waits for its results and forms the records."""


class Measurer:
    """Measures batches of rows.

    Args:
        reference: scores the pairs with a reference model; None without one.
    """

    def __init__(self, engine: Engine, reference: Scorer | None, settings: ScanSettings) -> None:
        self._engine = engine
        self._reference = reference
        self._recompute = settings.activation_checkpointing
        self._unshared_cosine = settings.unshared_cosine
        self._include_text = settings.include_text
        self._too_many_tokens: dict[bool, float] = {False: inf, True: inf}
        """Padded tokens of the smallest batch that ran out of memory, without and with recomputed activations."""

    def records(self, batches: Iterable[Sequence[PreparedRow]]) -> Iterator[RecordBatch]:
        """The records of batches, in order. On a GPU, those of one batch are formed while the next one runs.

        An empty batch has an empty result, at once.

        Raises:
            UnfinishedError: a single pair does not fit into memory.
        """
        waiting: Started | None = None
        for rows in batches:
            if not rows:
                yield RecordBatch(())
                continue
            started = self.start(rows)
            if waiting is not None:
                yield waiting()
            waiting = started
            if not self.runs_ahead:
                yield waiting()
                waiting = None
        if waiting is not None:
            yield waiting()

    def measure(self, rows: Sequence[PreparedRow]) -> RecordBatch:
        """The records of one batch; see `records`."""
        return self.start(rows)()

    @property
    def runs_ahead(self) -> bool:
        """Whether `start` returns before the device has finished."""
        return self._engine.runs_ahead

    def start(self, rows: Sequence[PreparedRow]) -> Started:
        """Start one batch; see `records`."""
        return self._start(rows, recompute=self._recompute)

    def _start(self, rows: Sequence[PreparedRow], *, recompute: bool) -> Started:
        """Start a batch. If memory runs out, start its halves, and a single pair with recomputed activations."""
        tokens = padded_tokens([row.tokens.pair for row in rows])
        if tokens < self._too_many_tokens[recompute]:
            started = within_memory(lambda: self._start_at_once(rows, recompute=recompute))
            if started is not None:
                return started
            if len(rows) > 1 or not recompute:  # a single pair has no smaller size, so it is always tried
                self._too_many_tokens[recompute] = tokens
        if len(rows) == 1 and not recompute:
            return self._start(rows, recompute=True)
        if len(rows) == 1:
            raise UnfinishedError(
                f"out of memory on row {rows[0].pair.index} alone",
                "memory for the forward and backward pass of one pair",
                "run the same command on a larger device to resume, or lower --max-length, or use --dtype bfloat16",
            )
        half = len(rows) // 2
        parts = [self._start(part, recompute=recompute) for part in (rows[:half], rows[half:])]

        def joined() -> RecordBatch:
            first, second = (part() for part in parts)
            return RecordBatch([*first.pairs, *second.pairs], [*first.layers, *second.layers])

        return joined

    def _start_at_once(self, rows: Sequence[PreparedRow], *, recompute: bool) -> Started:
        pairs = [row.tokens.pair for row in rows]
        measured = self._engine.start(pairs, recompute=recompute)
        reference = None if self._reference is None else self._reference.start(pairs)
        cosines = self._start_unshared(pairs, recompute=recompute) if self._unshared_cosine else None

        def formed() -> RecordBatch:
            measurements = measured()
            derived = derived_fields(measurements)
            records = [pair_record(*row) for row in zip(rows, measurements, derived, strict=True)]
            if reference is not None:
                chosen, rejected = reference().tolist()
                records = [
                    replace(record, chosen_ref_log_prob=chosen[position], rejected_ref_log_prob=rejected[position])
                    for position, record in enumerate(records)
                ]
            if cosines is not None:
                unshared = cosines(records)
                records = [replace(row, unshared_cosine=cosine) for row, cosine in zip(records, unshared, strict=True)]
            if self._include_text:
                records = [with_text(record, row) for record, row in zip(records, rows, strict=True)]
            layers = [layer for row, pair in zip(rows, measurements, strict=True) for layer in layer_records(row, pair)]
            return RecordBatch(records, layers)

        return formed

    def _start_unshared(
        self, pairs: Sequence[TokenizedPair], *, recompute: bool
    ) -> Callable[[Sequence[PairRecord]], list[float | None]]:
        """Start the cosines of the answers without their common start. Pairs with a common start need a second pass.

        Returns:
            A function from the records of whole answers to the cosines.
        """
        unshared = [without_shared_prefix(pair) for pair in pairs]
        second_pass = [number for number, pair in enumerate(unshared) if pair is not None and pair != pairs[number]]
        shortened = [pair for number in second_pass if (pair := unshared[number]) is not None]
        measured = self._engine.start(shortened, recompute=recompute) if shortened else None

        def cosines(records: Sequence[PairRecord]) -> list[float | None]:
            found = [None if pair is None else record.cosine for pair, record in zip(unshared, records, strict=True)]
            if measured is not None:
                for number, derived in zip(second_pass, derived_fields(measured()), strict=True):
                    found[number] = derived.cosine
            return found

        return cosines
