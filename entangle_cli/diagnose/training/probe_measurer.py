"""Measures probe pairs on a model in training. The training goes on as if nothing had happened."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from entangle_cli.data.checkpoint import DTYPES, Checkpoint
from entangle_cli.data.checkpoint_in_memory import checkpoint_in_training
from entangle_cli.data.in_memory import ModelInMemory
from entangle_cli.data.pairs import PairReader
from entangle_cli.data.probe_rows import ProbeRows
from entangle_cli.diagnose.scan.budget import SMALLEST_TOKENS
from entangle_cli.diagnose.scan.description import about_scan, describe_model, scan_identity, scan_plan
from entangle_cli.diagnose.scan.measurer import Measurer
from entangle_cli.diagnose.scan.row_preparation import RowPreparation
from entangle_cli.diagnose.scan.row_reader import RowReader
from entangle_cli.diagnose.scan.row_records import PreparedRow, skipped_record
from entangle_cli.diagnose.training.processes import gathered, random_state_kept, share_of
from entangle_cli.engine.batch import plan_batches
from entangle_cli.engine.compute_dtype import computing_in
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.scorer import Scorer
from entangle_cli.errors import DataError, UnfinishedError
from entangle_cli.records.model_description import ModelDescription
from entangle_cli.records.pair import PairRecord, RowKey, row_key
from entangle_cli.records.plan import ScanPlan
from entangle_cli.records.run import Identity
from entangle_cli.records.settings import ScanSettings


@dataclass(frozen=True, slots=True)
class ProbePoint:
    """The probe pairs at one step of a training."""

    step: int
    records: Sequence[PairRecord]
    """In the order of the data, including skipped rows."""
    identity: Identity
    about: Mapping[str, Any]
    """The rest of a run's manifest; see `about_scan`."""
    seconds: float
    """Duration of the measurement in this process."""


class ProbeMeasurer:
    """Measures the same pairs at any step of a training. Several processes share the pairs.

    Args:
        given: the trainer's model and its tokenizer.
        source: the probe pairs.
        settings: `parameters` and `sample` only describe what is measured; see `open_probes`.
        reference: the trainer's reference model; None if there is none.
    Raises:
        ModelError: the model is not a causal LM, or the pairs are conversations and there is no chat template.
        DataError: no pair can be measured.
    """

    def __init__(
        self, given: ModelInMemory, source: ProbeRows, settings: ScanSettings, reference: nn.Module | None = None
    ) -> None:
        self._given = given
        self._source = source
        self._settings = settings
        self._reference = reference
        pairs, tokenizer = PairReader(), checkpoint_in_training(given, 0).tokenizer_of_model
        self._reader = RowReader(source, pairs, RowPreparation(pairs, tokenizer, settings), settings)
        rows = [row for window in self._reader.windows() for row in window]
        self._rows = [row for row in rows if isinstance(row, PreparedRow)]
        self._skipped = [skipped_record(row) for row in rows if not isinstance(row, PreparedRow)]
        if not self._rows:
            first = self._skipped[0]
            raise DataError(
                f"probe pairs: none of {len(rows):,} rows can be measured; {first.file} row {first.index}: "
                f"{first.detail}",
                "rows with a prompt, a chosen and a rejected answer, or token ids of a trainer for pairs",
                "pass pairs: EntangleCallback(trainer, train_pairs=rows)",
                topic="training",
            )

    @property
    def set_names(self) -> list[str]:
        """Names of the probe sets."""
        return [each.name for each in self._source.sets]

    def measure(self, step: int) -> ProbePoint:
        """Measure all probe pairs. Every process must call this.

        Raises:
            UnfinishedError: another process could not measure its pairs. If it was this one, its own error is raised.
        """
        started = time.monotonic()
        share: _Share | None = None
        own_error: Exception | None = None
        try:
            with random_state_kept():
                checkpoint = checkpoint_in_training(self._given, step)
                share = self._measure_share(checkpoint)
        except Exception as error:  # the other processes wait for this one
            own_error = error
        shares = gathered((None if share is None else share.records, str(own_error)))
        if own_error is not None:
            raise own_error
        for records, problem in shares:
            if records is None:
                raise UnfinishedError(
                    f"another process: {problem}", "all probe pairs measured", "see the other process"
                )
        assert share is not None
        measured = [record for records, _ in shares for record in records or ()]
        return ProbePoint(
            step,
            sorted([*measured, *self._skipped], key=lambda record: (record.index, record.pair_in_row or 0)),
            scan_identity(self._reader.identity, share.model, self._settings),
            about_scan(share.plan, share.model, self._settings),
            time.monotonic() - started,
        )

    def _measure_share(self, checkpoint: Checkpoint) -> _Share:
        """Measure the pairs of this process."""
        model = checkpoint.model
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        with computing_in(model, DTYPES[self._settings.dtype]):
            parameters = {name: parameter for name, parameter in model.named_parameters() if name in trained}
            with Engine(model, parameters) as engine:
                name = str(checkpoint.identity["name"])
                description = describe_model(
                    name, checkpoint, engine, None, str(self._settings.parameters), model.device
                )
                formats = tuple(dict.fromkeys(row.pair.format for row in self._rows))
                plan = scan_plan(description, self._source, formats, self._settings, len(self._source.indices))
                measurer = Measurer(engine, None, self._settings)
                batches = _batches(share_of(self._rows), plan.batch_tokens)
                records = [record for batch in measurer.records(batches) for record in batch.pairs]
        return _Share(records, description, plan)

    def reference_log_probs(self) -> dict[RowKey, tuple[float, float]]:
        """Log-probs of chosen and rejected under the reference model, nats; empty without one.

        Every process must call this.

        Raises:
            UnfinishedError: a single pair does not fit into memory.
        """
        if self._reference is None:
            return {}
        rows = share_of(self._rows)
        found: dict[RowKey, tuple[float, float]] = {}
        with (
            random_state_kept(),
            computing_in(self._reference, DTYPES[self._settings.dtype]),
            Scorer(self._reference) as scorer,
        ):
            for batch in _batches(rows, SMALLEST_TOKENS):
                log_probs = scorer.log_probs([row.tokens.pair for row in batch]).tolist()
                keys = [row_key(row.pair) for row in batch]
                found |= dict(zip(keys, zip(*log_probs, strict=True), strict=True))
        return {key: pair for share in gathered(found) for key, pair in share.items()}


@dataclass(frozen=True, slots=True)
class _Share:
    """What one process measured."""

    records: Sequence[PairRecord]
    model: ModelDescription
    plan: ScanPlan


def _batches(rows: Sequence[PreparedRow], batch_tokens: int) -> list[list[PreparedRow]]:
    positions = plan_batches([row.tokens.pair for row in rows], batch_tokens)
    return [[rows[position] for position in batch] for batch in positions]
