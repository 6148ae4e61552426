"""The whole examination: what can be looked at is, and what cannot is a finding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from entangle_cli.data.checkpoint import Checkpoint, load_checkpoint, quiet_libraries
from entangle_cli.data.device import choose_device
from entangle_cli.data.planned_adapter import with_planned_adapter
from entangle_cli.data.sources import open_source
from entangle_cli.diagnose.doctor.data import (
    length_findings,
    longest_sequence,
    reference_findings,
    unused_reference_findings,
)
from entangle_cli.diagnose.doctor.engine import EngineCheck, check_engine, engine_findings
from entangle_cli.diagnose.doctor.environment import environment
from entangle_cli.diagnose.doctor.model import (
    attention_kernel,
    batch_findings,
    plain_log_probs,
    vocabulary_findings,
)
from entangle_cli.diagnose.doctor.training_file import file_findings
from entangle_cli.diagnose.doctor.training_model import training_findings
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

SCHEMA = "entangle.doctor"
SCHEMA_VERSION = "1.0"

BATCH_PAIRS = 4
"""Pairs that are looked at alone and in a batch."""
SEEN_OF_DATA = ("data", "formats", "usable", "reasons", "lengths")
"""Parts of an inspection that are shown."""
REFERENCE_PAIRS = 16
"""Pairs whose reference log-probs are checked."""
NOTES = {
    *("W-TRANSCRIPT", "W-SHARED-WORDS", "W-BOUNDARY", "W-TEMPLATE-DATE", "W-ROUTER-LOSS", "W-DEQUANTISED"),
    "W-PLANNED-ADAPTER",
}
"""Warnings of other commands that no training has to heed."""


def examine(
    model: str | None, data: Sequence[str], settings: ScanSettings, setup: TrainingSetup | None
) -> dict[str, Any]:
    """Examine a machine and, as far as they are given, a model, data and a trainer's file.

    Args:
        settings: how to read, tokenise and load; `limit` is the number of rows to look at in every data set.
    Returns:
        A document, JSON-able: `environment`, `model` and `training` with what was seen (null without one), `data` with
        what was seen of every data set, and `findings`, the worst first.
    """
    findings: list[Finding] = [] if setup is None else file_findings(setup)
    if setup is not None and setup.data_problem is not None and not data:
        findings.append(finding("D-DATA", setup.data_problem, "run in the folder of the training"))
    seen_model = checkpoint = None
    seen_data = []
    with quiet_libraries():
        if model is not None:
            try:
                checkpoint = _loaded(model, settings)
            except EntangleError as error:
                findings.append(finding("D-MODEL", error.found, error.remedy))
        if checkpoint is not None:
            findings += _model_findings(checkpoint, setup)
            seen_model = _seen_model(str(model), checkpoint)
        for name in data:
            try:
                seen, found = _examined_data(model, name, checkpoint, settings, setup)
                seen_data.append(seen)
            except EntangleError as error:
                found = [_without_data(error, checkpoint, setup)]
            findings += [replace(one, message=f"{name}: {one.message}") for one in found] if len(data) > 1 else found
    order = list(Severity)
    findings.sort(key=lambda one: order.index(one.severity))
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "environment": environment(),
        "model": seen_model,
        "data": seen_data,
        "training": None if setup is None else _seen_training(setup),
        "findings": [asdict(one) for one in findings],
    }


def _without_data(error: EntangleError, checkpoint: Checkpoint | None, setup: TrainingSetup | None) -> Finding:
    """Data that cannot be used. Trainers other than TRL may have a template of their own for conversations."""
    one = finding("D-DATA", error.found, error.remedy)
    has_own_template = setup is not None and setup.trainer != "TRL" and {"template", "chat_template"} & set(setup.given)
    lacks_template = checkpoint is not None and checkpoint.tokenizer.chat_template is None
    return replace(one, severity=Severity.WARNING) if has_own_template and lacks_template else one


def _loaded(model: str, settings: ScanSettings) -> Checkpoint:
    checkpoint = load_checkpoint(model, settings.dtype, choose_device(settings.device), settings.loading)
    if settings.lora is not None:
        checkpoint = with_planned_adapter(checkpoint, settings.lora, settings.seed, settings.dtype)
    return checkpoint


def _seen_model(name: str, checkpoint: Checkpoint) -> dict[str, Any]:
    tokenizer = checkpoint.tokenizer
    return {
        "name": name,
        "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        "device": str(checkpoint.model.device),
        "attention": attention_kernel(checkpoint),
        "context": checkpoint.context,
        "embeddings": checkpoint.num_embeddings,
        "tokens": len(tokenizer),
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "padding_side": tokenizer.padding_side,
        "chat_template": tokenizer.chat_template is not None,
        "stored_dtype": checkpoint.stored_dtype,
    }


def _seen_training(setup: TrainingSetup) -> dict[str, Any]:
    return {
        "trainer": setup.trainer,
        "method": setup.method,
        "read_by": setup.read_by,
        "loss": None if setup.loss is None else asdict(setup.loss),
        "not_taken": [asdict(remark) for remark in setup.remarks],
    }


def _model_findings(checkpoint: Checkpoint, setup: TrainingSetup | None) -> Iterator[Finding]:
    yield from vocabulary_findings(checkpoint)
    if checkpoint.tokenizer.eos_token is None:
        yield _warning("W-NO-EOS", "the tokenizer has no end-of-sequence token, so answers do not end with one")
    for code, message in checkpoint.warnings.items():
        yield _warning(code, message)
    if setup is not None:
        yield from training_findings(checkpoint, setup)


def _examined_data(
    model: str | None,
    data: str,
    checkpoint: Checkpoint | None,
    settings: ScanSettings,
    setup: TrainingSetup | None,
) -> tuple[dict[str, Any], list[Finding]]:
    """What the rows are like, and the findings on them. Without a checkpoint, their texts alone."""
    if model is None or checkpoint is None:
        inspected = inspect_rows(data, settings.reading, settings.limit)
        seen = {**{key: inspected[key] for key in SEEN_OF_DATA}, "engine": asdict(EngineCheck(0, "no model"))}
        return seen, [*map(_counted, inspected["notices"]), *_unusable(inspected)]
    inspected = inspect_with_model(
        data, model, settings.reading, settings.loading, settings.limit, settings.max_length, settings.truncation
    )
    findings = [_counted(notice) for notice in inspected["notices"] if notice["code"] not in checkpoint.warnings]
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


def _counted(notice: Mapping[str, Any]) -> Finding:
    count = notice["count"]
    return _warning(notice["code"], notice["message"] if count == 1 else f"{notice['message']} ({count:,} rows)")


def _warning(code: str, message: str) -> Finding:
    """A warning of other commands as a finding."""
    severity = Severity.NOTE if code in NOTES else Severity.WARNING
    return Finding(code, severity, message, f"see entangle explain {code}")
