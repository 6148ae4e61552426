"""The measurement: rows of a data set and a checkpoint in, one record a row out."""

from __future__ import annotations

import random
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from entangle_cli.data.checkpoint import (
    Checkpoint,
    check_dtype,
    choose_device,
    default_parameters,
    library_versions,
    load_checkpoint,
    quiet_libraries,
    select_parameters,
)
from entangle_cli.data.pairs import SkippedRow, read_pair
from entangle_cli.data.rows import RawRow, RowSource, open_source
from entangle_cli.data.tokenize import (
    TOKENIZATION,
    TokenSettings,
    Truncation,
    tokenize_pair,
)
from entangle_cli.diagnose.budget import batch_tokens
from entangle_cli.diagnose.estimate import estimate
from entangle_cli.diagnose.movements import derived_fields
from entangle_cli.diagnose.reference import Reference, opened_reference
from entangle_cli.diagnose.row_records import PreparedRow, pair_record, skipped_record, without_shared_prefix
from entangle_cli.engine.batch import plan_batches
from entangle_cli.engine.engine import Engine
from entangle_cli.errors import DataError, UnfinishedError
from entangle_cli.records import PairRecord, ScanEstimate, ScanPlan, ScanSettings, TokenizedPair

WINDOW_ROWS = 512
"""Rows among which batches are formed by length. Fixed, so that a run that goes on forms the same batches."""

PEEKED_ROWS = 200
"""Rows looked at before the start, to say what was recognised."""


class Scan:
    """A scan that is ready to start; made by `open_scan`.

    Attributes:
        plan: what was recognised and will be done.
        identity: JSON-able; two scans with the same identity measure the same numbers.
        about: JSON-able; the rest of a manifest: loss, plan, tokenizer, versions and hardware.
    """

    def __init__(
        self,
        source: RowSource,
        checkpoint: Checkpoint,
        engine: Engine,
        reference: Reference | None,
        settings: ScanSettings,
        plan: ScanPlan,
    ) -> None:
        self.plan = plan
        self._reference = None if reference is None else reference.scorer
        self._source = source
        self._checkpoint = checkpoint
        self._engine = engine
        self._settings = settings
        self._selected = _selected_rows(source.num_rows, settings)
        self._tokens = TokenSettings(
            settings.max_length,
            Truncation(settings.truncation),
            checkpoint.position_limit,
            getattr(checkpoint.model.get_input_embeddings(), "num_embeddings", None),
        )
        tokenizer = checkpoint.tokenizer
        self.identity = _identity(source, checkpoint, settings)
        if reference is not None:
            self.identity["reference"] = dict(reference.identity)
        self.about = {
            "loss": asdict(settings.loss),
            "plan": asdict(plan),
            "tokenizer": {"eos_token": tokenizer.eos_token, "bos_token": tokenizer.bos_token},
            "environment": {
                "device": plan.device,
                "hardware": _hardware(plan.device),
                "versions": {"entangle": version("entangle-cli"), **library_versions()},
            },
        }

    def records(self, done: Container[int] = ()) -> Iterator[list[PairRecord]]:
        """Records of every selected row but those in `done`, a batch at a time.

        Raises:
            DataError: a row that cannot be measured, when the settings are strict.
            UnfinishedError: one pair alone does not fit into memory.
        """
        rows = (row for row in self._source.rows() if row.index in self._selected)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="entangle-data") as background:
            coming = background.submit(self._next_window, rows)
            while window := coming.result():
                coming = background.submit(self._next_window, rows)
                yield from self._window_records(window, done)

    def _next_window(self, rows: Iterator[RawRow]) -> list[PreparedRow | SkippedRow]:
        """The next rows, tokenised."""
        return [self._prepare(row) for row in islice(rows, WINDOW_ROWS)]

    def estimate(self) -> ScanEstimate:
        """Measure two batches of the first rows, and say what the whole scan will take.

        Raises:
            DataError: none of the first rows can be measured.
        """
        window = self._next_window(row for row in self._source.rows() if row.index in self._selected)
        pairs = [row.tokens.pair for row in window if isinstance(row, PreparedRow)]
        batches = [[pairs[place] for place in batch] for batch in plan_batches(pairs, self.plan.batch_tokens)]
        measure = partial(self._engine.measure, recompute=self._settings.activation_checkpointing)
        return estimate(measure, batches, len(window), self.plan.num_selected, self._checkpoint.model)

    def _window_records(
        self, window: Sequence[PreparedRow | SkippedRow], done: Container[int]
    ) -> Iterator[list[PairRecord]]:
        skipped = [row for row in window if isinstance(row, SkippedRow)]
        prepared = [row for row in window if isinstance(row, PreparedRow)]
        for row in skipped:
            self._refuse_if_strict(row)
        if records := [skipped_record(row) for row in skipped if row.index not in done]:
            yield records
        for batch in plan_batches([row.tokens.pair for row in prepared], self.plan.batch_tokens):
            if missing := [prepared[place] for place in batch if prepared[place].pair.index not in done]:
                yield self._measure(missing, recompute=self._settings.activation_checkpointing)

    def _prepare(self, row: RawRow) -> PreparedRow | SkippedRow:
        pair = read_pair(row)
        if isinstance(pair, SkippedRow):
            return pair
        tokens = tokenize_pair(pair, self._checkpoint.tokenizer, self._tokens)
        return tokens if isinstance(tokens, SkippedRow) else PreparedRow(pair, tokens)

    def _refuse_if_strict(self, row: SkippedRow) -> None:
        if self._settings.strict:
            place = f"line {row.line}" if row.line is not None else f"row {row.index}"
            raise DataError(
                f"{self._source.path}, {place}: {row.reason}: {row.detail}",
                "only rows that can be measured (--strict)",
                "repair the row, or leave --strict out to skip and count such rows",
            )

    def _measure(self, rows: Sequence[PreparedRow], *, recompute: bool) -> list[PairRecord]:
        """Measure a batch; when memory runs out, its halves one after the other, and a pair alone by recomputing."""
        try:
            return self._measure_at_once(rows, recompute=recompute)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) == 1 and not recompute:
            return self._measure(rows, recompute=True)
        if len(rows) == 1:
            raise UnfinishedError(
                f"out of memory on row {rows[0].pair.index} alone",
                "memory for one pair's forward and backward",
                "lower --max-length, use --dtype bfloat16, or a larger device; the same command goes on from here",
            )
        half = len(rows) // 2
        return self._measure(rows[:half], recompute=recompute) + self._measure(rows[half:], recompute=recompute)

    def _measure_at_once(self, rows: Sequence[PreparedRow], *, recompute: bool) -> list[PairRecord]:
        pairs = [row.tokens.pair for row in rows]
        measured = self._engine.measure(pairs, recompute=recompute)
        records = [pair_record(*row) for row in zip(rows, measured, derived_fields(measured), strict=True)]
        if self._reference is not None:
            chosen, rejected = self._reference.log_probs(pairs).tolist()
            records = [
                replace(record, chosen_ref_log_prob=chosen[place], rejected_ref_log_prob=rejected[place])
                for place, record in enumerate(records)
            ]
        return self._with_unshared_cosines(pairs, records, recompute) if self._settings.unshared_cosine else records

    def _with_unshared_cosines(
        self, pairs: Sequence[TokenizedPair], records: list[PairRecord], recompute: bool
    ) -> list[PairRecord]:
        """The cosines behind the answers' common start: their own where there is none, else from a second pass."""
        unshared = [without_shared_prefix(pair) for pair in pairs]
        again = [place for place, pair in enumerate(unshared) if pair is not None and pair != pairs[place]]
        cosines = [None if pair is None else record.cosine for pair, record in zip(unshared, records, strict=True)]
        if again:
            measured = self._engine.measure(
                [pair for place in again if (pair := unshared[place]) is not None], recompute=recompute
            )
            for place, derived in zip(again, derived_fields(measured), strict=True):
                cosines[place] = derived.cosine
        return [replace(record, unshared_cosine=cosine) for record, cosine in zip(records, cosines, strict=True)]


@contextmanager
def open_scan(model: str, data: Path, settings: ScanSettings) -> Iterator[Scan]:
    """Open the data, load the checkpoint and find the rule of every parameter; nothing is measured yet.

    Raises:
        DataError: the data cannot be read, or none of its first rows holds a pair.
        ModelError: the checkpoint cannot be used.
        UsageError: a setting that does not fit the machine or the model.
    """
    check_dtype(settings.dtype)
    source = open_source(data, settings.split)
    formats = _peeked_formats(source)
    device = choose_device(settings.device, settings.device_map)
    with quiet_libraries():
        checkpoint = load_checkpoint(model, settings.dtype, device, settings.base_model, settings.device_map)
        pattern = settings.parameters or default_parameters(checkpoint)
        settings = replace(settings, parameters=pattern)
        parameters = select_parameters(checkpoint, pattern)
        with (
            Engine(checkpoint.model, parameters) as engine,
            opened_reference(settings, checkpoint, device) as reference,
        ):
            plan = _plan(model, source, formats, checkpoint, engine, settings, device)
            yield Scan(source, checkpoint, engine, reference, settings, plan)


def _plan(
    model: str,
    source: RowSource,
    formats: tuple[str, ...],
    checkpoint: Checkpoint,
    engine: Engine,
    settings: ScanSettings,
    device: torch.device,
) -> ScanPlan:
    rules = engine.plan.numel_by_rule()
    return ScanPlan(
        model=model,
        data=str(source.path),
        data_kind=source.kind,
        formats=formats,
        num_rows=source.num_rows,
        num_selected=len(_selected_rows(source.num_rows, settings)),
        num_parameters=sum(rules.values()),
        num_model_parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        numel_by_rule={rule.value: count for rule, count in rules.items()},
        slow_parameters=dict(engine.plan.reasons),
        device=str(device),
        dtype=settings.dtype,
        batch_tokens=settings.batch_tokens or batch_tokens(device, engine.plan.bytes_per_token),
    )


def _peeked_formats(source: RowSource) -> tuple[str, ...]:
    """Formats of the first rows, in order of appearance."""
    formats: dict[str, None] = {}
    first_problem = ""
    holds_pair = False
    for row in islice(source.rows(), PEEKED_ROWS):
        result = read_pair(row)
        if isinstance(result, SkippedRow):
            place = f"line {result.line}" if result.line is not None else f"row {result.index}"
            first_problem = first_problem or f"{place}: {result.detail}"
            holds_pair = holds_pair or result.holds_pair
        else:
            formats[result.format.value] = None
    if not formats and not holds_pair:
        raise DataError(
            f"{source.path}: no preference pair in the first {min(source.num_rows, PEEKED_ROWS)} rows; {first_problem}",
            'rows with "chosen" and "rejected", and a "prompt" unless the two start with it',
            "rename the columns, or convert the data to TRL's preference format",
        )
    return tuple(formats)


def _selected_rows(num_rows: int, settings: ScanSettings) -> range | frozenset[int]:
    candidates = range(num_rows if settings.limit is None else min(num_rows, settings.limit))
    if settings.sample is None or settings.sample >= len(candidates):
        return candidates
    return frozenset(random.Random(settings.seed).sample(candidates, settings.sample))


def _identity(source: RowSource, checkpoint: Checkpoint, settings: ScanSettings) -> dict[str, Any]:
    numbers = ["dtype", "max_length", "truncation", "parameters", "limit", "sample", "seed", "split"]
    numbers += ["unshared_cosine"] if settings.unshared_cosine else []
    return {
        "model": dict(checkpoint.identity),
        "data": {"name": source.path.name, "sha256": source.sha256, "rows": source.num_rows},
        "settings": {name: value for name, value in asdict(settings).items() if name in numbers},
        "tokenization": TOKENIZATION,
    }


def _hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    return f"CPU, {torch.get_num_threads()} threads"


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
