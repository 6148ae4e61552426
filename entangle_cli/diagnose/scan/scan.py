"""The scan: measures the pairs of a data set with a checkpoint and returns one record per pair."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from entangle_cli.data.checkpoint import (
    Checkpoint,
    check_dtype,
    load_checkpoint,
    quiet_libraries,
)
from entangle_cli.data.checkpoint_in_memory import checkpoint_in_memory
from entangle_cli.data.device import choose_device
from entangle_cli.data.in_memory import RowsInMemory, is_rows, model_in_memory, modes_kept
from entangle_cli.data.origin import refuse_swapped
from entangle_cli.data.pairs import SkippedRow
from entangle_cli.data.parameters import default_parameters, select_parameters
from entangle_cli.data.rows import RowSource
from entangle_cli.data.sources import named_data, open_source
from entangle_cli.diagnose.processes.ranks import Ranks
from entangle_cli.diagnose.scan.budget import fitting_tokens
from entangle_cli.diagnose.scan.description import about_scan, scan_identity, scan_plan
from entangle_cli.diagnose.scan.estimate import estimate
from entangle_cli.diagnose.scan.known_pairs import KnownPairs
from entangle_cli.diagnose.scan.measurer import Measurer
from entangle_cli.diagnose.scan.reference import Reference, opened_reference
from entangle_cli.diagnose.scan.row_reader import RowReader, Window, pair_reader, resolved_length
from entangle_cli.diagnose.scan.row_records import PreparedRow, skipped_record
from entangle_cli.diagnose.views.first_rows import peeked_formats
from entangle_cli.engine.batch import plan_batches
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.groups import parameter_groups
from entangle_cli.errors import DataError
from entangle_cli.records.pair import PairRecord, RecordBatch, RowKey, row_key
from entangle_cli.records.plan import ScanEstimate, ScanPlan
from entangle_cli.records.run import Run
from entangle_cli.records.settings import ScanSettings


class Scan:
    """A scan that is ready to start, created by `open_scan`.

    Attributes:
        plan: the recognised inputs and the planned work.
        identity: everything that determines the numbers.
        about: the rest of the manifest, JSON-able: loss, plan, tokenizer, versions and hardware.
        checkpoint: the measured model.
        parameters: the measured parameters by name.
        reader: reads the selected rows.
        measurer: turns rows into records.
        ranks: the processes that share the work.
        fitting_tokens: tokens of the largest batch that fits into memory; 0 if unknown.
    """

    def __init__(
        self,
        reader: RowReader,
        checkpoint: Checkpoint,
        parameters: Mapping[str, torch.nn.Parameter],
        engine: Engine,
        reference: Reference | None,
        settings: ScanSettings,
        plan: ScanPlan,
        ranks: Ranks,
    ) -> None:
        self.plan = plan
        self.ranks = ranks
        self._known: KnownPairs | None = None
        self.checkpoint = checkpoint
        self.parameters = parameters
        self.reader = reader
        device = torch.device(plan.device)
        self.fitting_tokens = fitting_tokens(device, engine.plan.bytes_per_token, ranks.local_size)
        self.measurer = Measurer(engine, None if reference is None else reference.scorer, settings)
        self.identity = scan_identity(self.reader, checkpoint, reference, settings)
        self.about = about_scan(plan, checkpoint, settings)

    def reuse_pairs(self, run: Run) -> None:
        """Reuse the pairs of a run instead of measuring them again.

        Raises:
            UsageError: the run has a different model or settings, or this scan measures layers.
        """
        self._known = KnownPairs(run, self.identity)

    @property
    def known_identity(self) -> str | None:
        """A hash of the reused pairs; None if no run is reused."""
        return None if self._known is None else self._known.identity

    def records(self, done: Container[RowKey] = (), rows: Sequence[int] | None = None) -> Iterator[RecordBatch]:
        """Batches of records for the pairs of the selected rows, except those in `done`.

        With several processes, each yields the batches that it measured. Rank 0 also yields skipped and reused pairs.

        Args:
            done: keys of the existing records.
            rows: indices of the rows to measure; None for all selected rows.
        Raises:
            DataError: a row cannot be measured and the settings are strict.
            UnfinishedError: a single pair does not fit into memory.
        """
        for window in self.reader.windows(rows):
            unmeasured = [skipped_record(row) for row in window if isinstance(row, SkippedRow)]
            if self._known is not None:
                window, known = self._without_known(window, self._known)
                unmeasured += known
            if self.ranks.rank == 0 and (records := [record for record in unmeasured if row_key(record) not in done]):
                yield RecordBatch(records)
            yield from self.measurer.records(self._claimed(window, done))

    def _claimed(self, window: Window, done: Container[RowKey]) -> Iterator[list[PreparedRow]]:
        """The batches of a window that this process measures, without the rows in `done`."""
        for batch in self.batches(window):
            missing = [row for row in batch if row_key(row.pair) not in done]
            if missing and self.ranks.claim_batch(len(missing)):
                yield missing

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
        batches = self.batches(window)
        num_rows = self.plan.num_selected / self.plan.num_processes
        return estimate(self.measurer.measure, batches, len(window), num_rows, self.checkpoint.model)

    def batches(self, window: Window) -> list[list[PreparedRow]]:
        """Batches of the rows in a window that can be measured, longest first."""
        prepared = [row for row in window if isinstance(row, PreparedRow)]
        positions = plan_batches([row.tokens.pair for row in prepared], self.plan.batch_tokens)
        return [[prepared[position] for position in batch] for batch in positions]


@contextmanager
def open_scan(model: Any, data: Any, settings: ScanSettings, ranks: Ranks | None = None) -> Iterator[Scan]:
    """Open the data, load the checkpoint and choose the rule for every parameter. Measures nothing yet.

    Args:
        model: a checkpoint's folder or hub name, or a tuple of a transformers model and its tokenizer.
        data: names of data sets, a `datasets.Dataset`, or rows.
        ranks: the processes that share the work; None for this process alone. Every process opens the scan.
    Raises:
        DataError: the data cannot be read, or none of the first rows holds a pair.
        ModelError: the checkpoint cannot be used.
        UsageError: a setting does not fit the machine or the model.
    """
    check_dtype(settings.dtype)
    source = _opened(model, data, settings)
    pairs = pair_reader(source, settings.reading)
    formats = peeked_formats(source, pairs, settings.reading)
    ranks = ranks or Ranks()
    with quiet_libraries(), _loaded(model, settings, ranks) as (checkpoint, device):
        pattern = settings.parameters or default_parameters(checkpoint)
        max_length = resolved_length(settings.max_length, checkpoint.context)
        settings = replace(settings, parameters=pattern, max_length=max_length)
        parameters = select_parameters(checkpoint, pattern)
        groups = parameter_groups(checkpoint.model, parameters) if settings.layers else None
        with (
            Engine(checkpoint.model, parameters, groups=groups) as engine,
            opened_reference(settings, checkpoint, device) as reference,
        ):
            reader = RowReader(source, pairs, checkpoint, settings)
            name = str(model) if isinstance(model, str | Path) else str(checkpoint.identity["name"])
            plan = scan_plan(name, source, formats, checkpoint, engine, settings, device, ranks, reader.num_selected)
            scan = Scan(reader, checkpoint, parameters, engine, reference, settings, plan, ranks)
            scan.reader.check()
            yield scan


def _opened(model: Any, data: Any, settings: ScanSettings) -> RowSource:
    if is_rows(data):
        return RowsInMemory(data)
    names = named_data(data)
    if isinstance(model, str | Path):
        refuse_swapped(str(model), names)
    return open_source(names, settings.reading, settings.limit)


@contextmanager
def _loaded(model: Any, settings: ScanSettings, ranks: Ranks) -> Iterator[tuple[Checkpoint, torch.device]]:
    """The model to measure, and its device. A model in memory stays on its device."""
    if isinstance(model, str | Path):
        device = choose_device(settings.device, settings.device_map, ranks.local_rank, ranks.local_size)
        yield load_checkpoint(str(model), settings.dtype, device, settings.loading, settings.device_map), device
        return
    given = model_in_memory(model)
    with modes_kept(given.model):
        yield checkpoint_in_memory(given, settings.dtype), given.model.device
