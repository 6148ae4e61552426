"""One data set, examined with the model: what its rows are like, and the findings on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from entangle_cli.data.checkpoint import Checkpoint
from entangle_cli.data.sources import open_source
from entangle_cli.diagnose.doctor.data import (
    length_findings,
    longest_sequence,
    reference_findings,
    unused_reference_findings,
)
from entangle_cli.diagnose.doctor.engine import EngineCheck, check_engine, engine_findings
from entangle_cli.diagnose.doctor.model import batch_findings, plain_log_probs
from entangle_cli.diagnose.doctor.warnings_as_findings import noticed
from entangle_cli.diagnose.inspect_model import inspect_with_model
from entangle_cli.diagnose.scan.reference import opened_reference
from entangle_cli.diagnose.scan.row_preparation import RowPreparation
from entangle_cli.diagnose.scan.row_reader import pair_reader
from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.diagnose.views.first_rows import suggested_map
from entangle_cli.diagnose.views.inspection import inspect_rows
from entangle_cli.errors import EntangleError
from entangle_cli.records.finding import Finding, Severity, finding
from entangle_cli.records.measurement import TokenizedPair
from entangle_cli.records.settings import ScanSettings
from entangle_cli.records.training_setup import TrainingSetup
from entangle_cli.records.words import counted

BATCH_PAIRS = 4
"""Pairs that are looked at alone and in a batch."""
SEEN_OF_DATA = ("data", "formats", "usable", "reasons", "lengths")
"""Parts of an inspection that are shown."""
REFERENCE_PAIRS = 16
"""Pairs whose reference log-probs are checked."""


def examined_data(
    model: str | None,
    data: str,
    checkpoint: Checkpoint | None,
    settings: ScanSettings,
    setup: TrainingSetup | None,
) -> tuple[dict[str, Any], list[Finding]]:
    """What the rows are like, and the findings on them. Without a checkpoint, their texts alone.

    Raises:
        EntangleError: the data cannot be read, or no row can be tokenised.
    """
    if model is None or checkpoint is None:
        inspected = inspect_rows(data, settings.reading, settings.limit)
        seen = {**{key: inspected[key] for key in SEEN_OF_DATA}, "engine": asdict(EngineCheck(0, "no model"))}
        return seen, [*map(noticed, inspected["notices"]), *_unusable(inspected)]
    inspected = inspect_with_model(
        data, model, settings.reading, settings.loading, settings.limit, settings.max_length, settings.truncation
    )
    findings = [noticed(notice) for notice in inspected["notices"] if notice["code"] not in checkpoint.warnings]
    findings += _unusable(inspected)
    rows = _rows(data, checkpoint, replace(settings, max_length=None), is_whole=True)
    limit = checkpoint.position_limit or checkpoint.context or math.inf
    fitting = [row.tokens.pair for row in rows if longest_sequence(row) <= limit]
    sides = [side for pair in fitting[:BATCH_PAIRS] for side in (pair.chosen, pair.rejected)]
    pads_right = setup is not None and setup.trainer == "TRL" and setup.method == "dpo"
    findings += batch_findings(checkpoint, sides, pads_right=pads_right)
    check = check_engine(checkpoint, fitting)
    findings += engine_findings(check, checkpoint.model.dtype)
    if setup is not None:
        findings += length_findings(setup, checkpoint.context, rows)
        findings += unused_reference_findings(setup, rows)
    if any(row.pair.ref_log_probs is not None for row in rows):
        findings += _on_reference(model, checkpoint, _rows(data, checkpoint, settings), settings)
    return {**{key: inspected[key] for key in SEEN_OF_DATA}, "engine": asdict(check)}, findings


def _unusable(inspected: Mapping[str, Any]) -> Iterator[Finding]:
    """Rows that no training can use: an error if they are most of them."""
    skipped = sum(inspected["reasons"].values())
    if not skipped:
        return
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in inspected["reasons"].items())
    rows = counted(skipped, "row")
    remedy = "run entangle inspect"
    if first := next((row for row in inspected["skipped"] if row["detail"]), None):
        place = f"row {first['index']}" if first["line"] is None else f"line {first['line']}"
        reasons += f"; {place}: {first['detail']}"
        if first["detail"].startswith("no column"):
            remedy = f"name the columns: {suggested_map(inspected['columns'])}"
    one = finding("D-DATA", f"{rows} of those looked at cannot be used: {reasons}", remedy)
    yield one if skipped > inspected["usable"] else replace(one, severity=Severity.WARNING)


def _rows(data: str, checkpoint: Checkpoint, settings: ScanSettings, *, is_whole: bool = False) -> list[PreparedRow]:
    """The usable pairs of the first rows. If `is_whole`, also those that the model is too short for."""
    source = open_source(data, settings.reading, settings.limit)
    tokenizer = checkpoint.tokenizer_of_model
    if is_whole:
        tokenizer = replace(tokenizer, context=None, position_limit=None)
    prepared = RowPreparation(pair_reader(source, settings.reading), tokenizer, settings)
    windows = prepared(islice(source.rows(), settings.limit))
    return [row for window in windows for row in window if isinstance(row, PreparedRow)]


def _on_reference(
    model: str, checkpoint: Checkpoint, rows: Sequence[PreparedRow], settings: ScanSettings
) -> Iterator[Finding]:
    known = [row for row in rows if row.pair.ref_log_probs is not None][:REFERENCE_PAIRS]
    if not known:
        return
    with opened_reference(settings, checkpoint, checkpoint.model.device) as reference:

        def score(pair: TokenizedPair) -> Sequence[float]:
            if reference is None:
                found = plain_log_probs(checkpoint.model, [pair.chosen, pair.rejected])
            else:
                found = reference.scorer.log_probs([pair])[:, 0]
            return [float(value) for value in found]

        yield from reference_findings(score, settings.ref_model or model, known)


def unusable_data(error: EntangleError, checkpoint: Checkpoint | None, setup: TrainingSetup | None) -> Finding:
    """Data that cannot be used. Trainers other than TRL may have a template of their own for conversations."""
    one = finding("D-DATA", error.found, error.remedy)
    has_own_template = setup is not None and setup.trainer != "TRL" and {"template", "chat_template"} & set(setup.given)
    lacks_template = checkpoint is not None and checkpoint.tokenizer.chat_template is None
    return replace(one, severity=Severity.WARNING) if has_own_template and lacks_template else one
