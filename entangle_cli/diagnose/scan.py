"""The measurement: rows of a data set and a checkpoint in, one record a row out."""

from __future__ import annotations

import random
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from math import isfinite, sqrt
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
from entangle_cli.data.pairs import PreferencePair, SkippedRow, read_pair
from entangle_cli.data.rows import RawRow, RowSource, open_source
from entangle_cli.data.tokenize import (
    TOKENIZATION,
    TokenizedRow,
    TokenSettings,
    Truncation,
    tokenize_pair,
)
from entangle_cli.diagnose.budget import batch_tokens
from entangle_cli.diagnose.estimate import estimate
from entangle_cli.diagnose.movements import DerivedFields, derived_fields
from entangle_cli.engine.batch import plan_batches
from entangle_cli.engine.engine import Engine
from entangle_cli.errors import DataError, UnfinishedError
from entangle_cli.records import PairMeasurement, PairRecord, ScanEstimate, ScanPlan, ScanSettings, Status

WINDOW_ROWS = 512
"""Rows among which batches are formed by length. Fixed, so that a run that goes on forms the same batches."""

PEEKED_ROWS = 200
"""Rows looked at before the start, to say what was recognised."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A row that will be measured."""

    pair: PreferencePair
    tokens: TokenizedRow


class Scan:
    """A scan that is ready to start; made by `open_scan`.

    Attributes:
        plan: what was recognised and will be done.
        identity: JSON-able; two scans with the same identity measure the same numbers.
        about: JSON-able; the rest of a manifest: loss, plan, tokenizer, versions and hardware.
    """

    def __init__(
        self, source: RowSource, checkpoint: Checkpoint, engine: Engine, settings: ScanSettings, plan: ScanPlan
    ) -> None:
        self.plan = plan
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

    def _next_window(self, rows: Iterator[RawRow]) -> list[_Prepared | SkippedRow]:
        """The next rows, tokenised."""
        return [self._prepare(row) for row in islice(rows, WINDOW_ROWS)]

    def estimate(self) -> ScanEstimate:
        """Measure two batches of the first rows, and say what the whole scan will take.

        Raises:
            DataError: none of the first rows can be measured.
        """
        window = self._next_window(row for row in self._source.rows() if row.index in self._selected)
        pairs = [row.tokens.pair for row in window if isinstance(row, _Prepared)]
        batches = [[pairs[place] for place in batch] for batch in plan_batches(pairs, self.plan.batch_tokens)]
        measure = partial(self._engine.measure, recompute=self._settings.activation_checkpointing)
        return estimate(measure, batches, len(window), self.plan.num_selected, self._checkpoint.model)

    def _window_records(
        self, window: Sequence[_Prepared | SkippedRow], done: Container[int]
    ) -> Iterator[list[PairRecord]]:
        skipped = [row for row in window if isinstance(row, SkippedRow)]
        prepared = [row for row in window if isinstance(row, _Prepared)]
        for row in skipped:
            self._refuse_if_strict(row)
        if records := [_skipped_record(row) for row in skipped if row.index not in done]:
            yield records
        for batch in plan_batches([row.tokens.pair for row in prepared], self.plan.batch_tokens):
            if missing := [prepared[place] for place in batch if prepared[place].pair.index not in done]:
                yield self._measure(missing, recompute=self._settings.activation_checkpointing)

    def _prepare(self, row: RawRow) -> _Prepared | SkippedRow:
        pair = read_pair(row)
        if isinstance(pair, SkippedRow):
            return pair
        tokens = tokenize_pair(pair, self._checkpoint.tokenizer, self._tokens)
        return tokens if isinstance(tokens, SkippedRow) else _Prepared(pair, tokens)

    def _refuse_if_strict(self, row: SkippedRow) -> None:
        if self._settings.strict:
            place = f"line {row.line}" if row.line is not None else f"row {row.index}"
            raise DataError(
                f"{self._source.path}, {place}: {row.reason}: {row.detail}",
                "only rows that can be measured (--strict)",
                "repair the row, or leave --strict out to skip and count such rows",
            )

    def _measure(self, rows: Sequence[_Prepared], *, recompute: bool) -> list[PairRecord]:
        """Measure a batch; when memory runs out, its halves one after the other, and a pair alone by recomputing."""
        try:
            measurements = self._engine.measure([row.tokens.pair for row in rows], recompute=recompute)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            measurements = None
        if measurements is not None:
            derived = derived_fields(measurements)
            return [_record(*row) for row in zip(rows, measurements, derived, strict=True)]
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
        with Engine(checkpoint.model, parameters) as engine:
            plan = _plan(model, source, formats, checkpoint, engine, settings, device)
            yield Scan(source, checkpoint, engine, settings, plan)


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
    numbers = ("dtype", "max_length", "truncation", "parameters", "limit", "sample", "seed", "split")
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


def _skipped_record(row: SkippedRow) -> PairRecord:
    return PairRecord(row.index, row.pair_id, Status.SKIPPED.value, reason=row.reason, detail=row.detail, line=row.line)


def _record(row: _Prepared, measured: PairMeasurement, derived: DerivedFields) -> PairRecord:
    """The record of a measured pair; what is not finite becomes null and a reason."""
    numbers = asdict(measured)
    finite = all(map(isfinite, numbers.values()))
    vanishes = finite and min(measured.chosen_squared_norm, measured.rejected_squared_norm) <= 0.0
    reason = None if finite and not vanishes else "zero_gradient" if finite else "non_finite"
    known = {name: value if isfinite(value) else None for name, value in numbers.items()}
    chosen, rejected = row.tokens.pair.chosen, row.tokens.pair.rejected
    return PairRecord(
        index=row.pair.index,
        pair_id=row.pair.pair_id,
        status=(Status.OK if reason is None else Status.UNDEFINED).value,
        reason=reason,
        line=row.pair.line,
        format=row.pair.format.value,
        boundary_moved=row.tokens.boundary_moved,
        prompt_tokens=row.tokens.prompt_tokens,
        chosen_tokens=chosen.num_scored,
        rejected_tokens=rejected.num_scored,
        chosen_truncated=chosen.truncated,
        rejected_truncated=rejected.truncated,
        chosen_log_prob=known["chosen_log_prob"],
        rejected_log_prob=known["rejected_log_prob"],
        chosen_grad_norm=_root(known["chosen_squared_norm"]),
        rejected_grad_norm=_root(known["rejected_squared_norm"]),
        inner_product=known["inner_product"],
        cosine=derived.cosine if reason is None else None,
        norm_ratio=derived.norm_ratio if reason is None else None,
        chosen_condition=derived.chosen_condition if reason is None else None,
        rejected_condition=derived.rejected_condition if reason is None else None,
    )


def _root(squared_norm: float | None) -> float | None:
    return None if squared_norm is None else sqrt(max(0.0, squared_norm))
