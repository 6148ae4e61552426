"""The measurement: rows of a data set and a checkpoint in, one record a row out."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from entangle_cli.data.checkpoint import (
    Checkpoint,
    check_dtype,
    checkpoint_in_memory,
    library_versions,
    load_checkpoint,
    quiet_libraries,
)
from entangle_cli.data.device import choose_device
from entangle_cli.data.in_memory import RowsInMemory, is_rows, model_in_memory, modes_kept
from entangle_cli.data.origin import refuse_swapped
from entangle_cli.data.pairs import SkippedRow
from entangle_cli.data.parameters import default_parameters, select_parameters
from entangle_cli.data.rows import RowSource
from entangle_cli.data.sources import named_data, open_source
from entangle_cli.data.tokenize import TOKENIZATION
from entangle_cli.diagnose.processes.ranks import Ranks
from entangle_cli.diagnose.scan.budget import batch_tokens, fitting_tokens
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
from entangle_cli.records.run import Identity, Run
from entangle_cli.records.settings import ReadingSettings, ScanSettings


class Scan:
    """A scan that is ready to start; made by `open_scan`.

    Attributes:
        plan: what was recognised and will be done.
        identity: what decides the numbers.
        about: JSON-able; the rest of a manifest: loss, plan, tokenizer, versions and hardware.
        checkpoint: the model that is measured.
        parameters: those that count, by name.
        reader: the selected rows.
        measurer: turns them into records.
        ranks: the processes that share the work.
        fitting_tokens: of a batch as large as memory allows; 0 where that is unknown.
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
        tokenizer = checkpoint.tokenizer
        self.identity = _identity(self.reader, checkpoint, reference, settings)
        self.about = {
            "loss": asdict(settings.loss),
            "plan": asdict(plan),
            "training_step": checkpoint.training_step,
            "tokenizer": {"eos_token": tokenizer.eos_token, "bos_token": tokenizer.bos_token},
            "environment": {
                "device": plan.device,
                "hardware": _hardware(plan.device),
                "versions": {"entangle": version("entangle-cli"), **library_versions()},
            },
        }

    def take_known(self, run: Run) -> None:
        """Take the pairs that a run holds from it instead of measuring them.

        Raises:
            UsageError: the run is of another model or other settings.
        """
        self._known = KnownPairs(run, self.identity)

    @property
    def known_identity(self) -> str | None:
        """What tells the pairs that are known from others; None without any."""
        return None if self._known is None else self._known.identity

    def records(self, done: Container[RowKey] = (), rows: Sequence[int] | None = None) -> Iterator[RecordBatch]:
        """Records of every pair of the selected rows but those in `done`, a batch at a time.

        Of several processes each yields the batches that it measured, and rank 0 what needs no measuring.

        Args:
            rows: indices of the rows to measure; None for all that are selected.
        Raises:
            DataError: a row that cannot be measured, when the settings are strict.
            UnfinishedError: one pair alone does not fit into memory.
        """
        for window in self.reader.windows(rows):
            found = [skipped_record(row) for row in window if isinstance(row, SkippedRow)]
            if self._known is not None:
                window, known = self._without_known(window, self._known)
                found += known
            if self.ranks.rank == 0 and (records := [record for record in found if row_key(record) not in done]):
                yield RecordBatch(records)
            for batch in self.batches(window):
                missing = [row for row in batch if row_key(row.pair) not in done]
                if missing and self.ranks.takes(len(missing)):
                    yield self.measurer.measure(missing)

    def refuse_other_data(self, num_rows: int) -> None:
        """See, when all rows were read, that they were those of the data set that was hashed, and all of them.

        Args:
            num_rows: that pairs or reasons were recorded of.
        Raises:
            DataError: the data changed, or have fewer rows than were counted.
        """
        self.reader.refuse_changed()
        if num_rows != self.plan.num_selected:
            raise DataError(
                f"{self.plan.data}: {num_rows:,} rows were read of {self.plan.num_selected:,}",
                "as many rows as were counted",
                "check that nothing else writes to the data, and give the command again",
            )

    @staticmethod
    def _without_known(window: Window, known: KnownPairs) -> tuple[Window, list[PairRecord]]:
        """A window without the pairs that are known, and the records of those."""
        left: Window = []
        records = []
        for row in window:
            record = None if isinstance(row, SkippedRow) else known.record(row)
            if record is None:
                left.append(row)
            else:
                records.append(record)
        return left, records

    def estimate(self) -> ScanEstimate:
        """Measure two batches of the first rows, and say what the whole scan will take.

        Raises:
            DataError: none of the first rows can be measured.
        """
        window = self.reader.first_window()
        batches = self.batches(window)
        num_rows = self.plan.num_selected / self.plan.num_processes
        return estimate(self.measurer.measure, batches, len(window), num_rows, self.checkpoint.model)

    def batches(self, window: Window) -> list[list[PreparedRow]]:
        """The rows of a window that can be measured, longest first."""
        prepared = [row for row in window if isinstance(row, PreparedRow)]
        places = plan_batches([row.tokens.pair for row in prepared], self.plan.batch_tokens)
        return [[prepared[place] for place in batch] for batch in places]


@contextmanager
def open_scan(model: Any, data: Any, settings: ScanSettings, ranks: Ranks | None = None) -> Iterator[Scan]:
    """Open the data, load the checkpoint and find the rule of every parameter; nothing is measured yet.

    Args:
        model: a checkpoint's folder or hub name, or a transformers model and its tokenizer as a pair.
        data: names of data sets, a `datasets.Dataset`, or rows.
        ranks: the processes that share the work, each of which opens it; None for this process alone.
    Raises:
        DataError: the data cannot be read, or none of its first rows holds a pair.
        ModelError: the checkpoint cannot be used.
        UsageError: a setting that does not fit the machine or the model.
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
            plan = _plan(name, source, formats, checkpoint, engine, settings, device, ranks, reader.num_selected)
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
    """The model to measure, and its device: one that is in memory stays where it is."""
    if isinstance(model, str | Path):
        device = choose_device(settings.device, settings.device_map, ranks.local_rank, ranks.local_size)
        yield load_checkpoint(str(model), settings.dtype, device, settings.loading, settings.device_map), device
        return
    given = model_in_memory(model)
    with modes_kept(given.model):
        yield checkpoint_in_memory(given, settings.dtype), given.model.device


def _plan(
    model: str,
    source: RowSource,
    formats: tuple[str, ...],
    checkpoint: Checkpoint,
    engine: Engine,
    settings: ScanSettings,
    device: torch.device,
    ranks: Ranks,
    num_selected: int,
) -> ScanPlan:
    budget = settings.batch_tokens or batch_tokens(device, engine.plan.bytes_per_token, ranks.local_size)
    rules = engine.plan.numel_by_rule()
    return ScanPlan(
        model=model,
        data=source.location,
        data_kind=source.kind,
        formats=formats,
        num_rows=source.num_rows,
        num_selected=num_selected,
        num_parameters=sum(rules.values()),
        num_model_parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        numel_by_rule={rule.value: count for rule, count in rules.items()},
        slow_parameters=dict(engine.plan.reasons),
        device=str(device),
        dtype=settings.dtype,
        checkpoint_warnings=dict(checkpoint.warnings),
        batch_tokens=ranks.lowest(budget),
        max_length=None if settings.max_length is None else int(settings.max_length),
        context=checkpoint.context,
        num_processes=ranks.size,
    )


def _identity(
    reader: RowReader, checkpoint: Checkpoint, reference: Reference | None, settings: ScanSettings
) -> Identity:
    numbers = {
        name: getattr(settings, name)
        for name in ("dtype", "max_length", "truncation", "parameters", "limit", "sample", "seed")
    }
    reading = {
        name: value for name, value in asdict(settings.reading).items() if value != getattr(ReadingSettings(), name)
    }
    further = {
        name: value
        for name in ("unshared_cosine", "layers", "include_text", "shard")
        if (value := getattr(settings, name))
    }
    if settings.loading.attn_implementation:
        further["attn_implementation"] = settings.loading.attn_implementation
    if checkpoint.template_date is not None:
        further["template_date"] = checkpoint.template_date
    if settings.until_decided is not None:
        stop = settings.until_decided
        further["until_decided"] = {
            "rules": list(stop.rules),
            "confidence": stop.confidence,
            "loss": asdict(settings.loss),
        }
    return Identity(
        {
            "model": dict(checkpoint.identity),
            "data": reader.identity,
            "settings": {**numbers, **reading, **further},
            "tokenization": TOKENIZATION,
            **({} if reference is None else {"reference": dict(reference.identity)}),
        }
    )


def _hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    return f"CPU, {torch.get_num_threads()} threads"
