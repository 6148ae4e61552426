"""Turns prepared rows into records with the engine. Splits a batch if memory runs out, and remembers the size."""

from __future__ import annotations

from collections.abc import Sequence
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

    def measure(self, rows: Sequence[PreparedRow]) -> RecordBatch:
        """The records of one batch of rows.

        Raises:
            UnfinishedError: a single pair does not fit into memory.
        """
        return self._measure(rows, recompute=self._recompute)

    def _measure(self, rows: Sequence[PreparedRow], *, recompute: bool) -> RecordBatch:
        """Measure a batch. If memory runs out, measure its halves, and a single pair with recomputed activations."""
        tokens = padded_tokens([row.tokens.pair for row in rows])
        if tokens < self._too_many_tokens[recompute]:
            measured = within_memory(lambda: self._measure_at_once(rows, recompute=recompute))
            if measured is not None:
                return measured
            self._too_many_tokens[recompute] = tokens
        if len(rows) == 1 and not recompute:
            return self._measure(rows, recompute=True)
        if len(rows) == 1:
            raise UnfinishedError(
                f"out of memory on row {rows[0].pair.index} alone",
                "memory for the forward and backward pass of one pair",
                "run the same command on a larger device to resume, or lower --max-length, or use --dtype bfloat16",
            )
        half = len(rows) // 2
        first, second = (self._measure(part, recompute=recompute) for part in (rows[:half], rows[half:]))
        return RecordBatch([*first.pairs, *second.pairs], [*first.layers, *second.layers])

    def _measure_at_once(self, rows: Sequence[PreparedRow], *, recompute: bool) -> RecordBatch:
        pairs = [row.tokens.pair for row in rows]
        measured = self._engine.measure(pairs, recompute=recompute)
        records = [pair_record(*row) for row in zip(rows, measured, derived_fields(measured), strict=True)]
        if self._reference is not None:
            chosen, rejected = self._reference.log_probs(pairs).tolist()
            records = [
                replace(record, chosen_ref_log_prob=chosen[position], rejected_ref_log_prob=rejected[position])
                for position, record in enumerate(records)
            ]
        if self._unshared_cosine:
            records = self._with_unshared_cosines(pairs, records, recompute)
        if self._include_text:
            records = [with_text(record, row) for record, row in zip(records, rows, strict=True)]
        layers = [layer for row, pair in zip(rows, measured, strict=True) for layer in layer_records(row, pair)]
        return RecordBatch(records, layers)

    def _with_unshared_cosines(
        self, pairs: Sequence[TokenizedPair], records: list[PairRecord], recompute: bool
    ) -> list[PairRecord]:
        """Add the cosines of the answers without their common start. Pairs with a common start need a second pass."""
        unshared = [without_shared_prefix(pair) for pair in pairs]
        second_pass = [number for number, pair in enumerate(unshared) if pair is not None and pair != pairs[number]]
        cosines = [None if pair is None else record.cosine for pair, record in zip(unshared, records, strict=True)]
        if second_pass:
            measured = self._engine.measure(
                [pair for number in second_pass if (pair := unshared[number]) is not None], recompute=recompute
            )
            for number, derived in zip(second_pass, derived_fields(measured), strict=True):
                cosines[number] = derived.cosine
        return [replace(record, unshared_cosine=cosine) for record, cosine in zip(records, cosines, strict=True)]
