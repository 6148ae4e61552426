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
from entangle_cli.diagnose.doctor.data import length_findings, longest_sequence, reference_findings
from entangle_cli.diagnose.doctor.engine import check_engine, engine_findings
from entangle_cli.diagnose.doctor.environment import environment
from entangle_cli.diagnose.doctor.model import (
    attention_kernel,
    batch_findings,
    dropout_of,
    lost_steps,
    plain_log_probs,
    vocabulary_findings,
)
from entangle_cli.diagnose.doctor.training_file import file_findings, is_on
from entangle_cli.diagnose.inspect_model import inspect_with_model
from entangle_cli.diagnose.scan.reference import opened_reference
from entangle_cli.diagnose.scan.row_preparation import RowPreparation
from entangle_cli.diagnose.scan.row_reader import pair_reader
from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.errors import EntangleError
from entangle_cli.records.finding import Finding, Severity, finding
from entangle_cli.records.measurement import TokenizedPair
from entangle_cli.records.settings import ScanSettings
from entangle_cli.records.training_setup import TrainingSetup

SCHEMA = "entangle.doctor"
SCHEMA_VERSION = "1.0"

BATCH_PAIRS = 4
"""Pairs that are looked at alone and in a batch."""
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
        settings: how to read, tokenise and load; `limit` is the number of rows to look at.
    Returns:
        A document, JSON-able: `environment`, `model`, `data` and `training` with what was seen (null without one),
        and `findings`, the worst first.
    """
    findings: list[Finding] = [] if setup is None else file_findings(setup)
    if setup is not None and setup.data_problem is not None:
        findings.append(finding("D-DATA", setup.data_problem, "run in the folder of the training"))
    seen_model = seen_data = None
    with quiet_libraries():
        checkpoint = None
        if model is not None:
            try:
                checkpoint = _loaded(model, settings)
            except EntangleError as error:
                findings.append(finding("D-MODEL", error.found, error.remedy))
        if checkpoint is not None:
            findings += _model_findings(checkpoint, setup)
            seen_model = _seen_model(str(model), checkpoint)
        if data and checkpoint is not None:
            try:
                seen_data, found = _examined_data(str(model), data, checkpoint, settings, setup)
                findings += found
            except EntangleError as error:
                findings.append(finding("D-DATA", error.found, error.remedy))
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
        "dropout": dropout_of(checkpoint),
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
    if setup is None:
        return
    dropout = max(dropout_of(checkpoint), 0.0 if setup.lora is None else setup.lora.dropout)
    if "disable_dropout" in setup.given and not is_on(setup.given["disable_dropout"]) and dropout:
        yield finding(
            "D-DROPOUT",
            f"disable_dropout: false, and a dropout of {dropout:g} in the model or its adapter",
            "remove disable_dropout: false",
        )
    is_whole = setup.lora is None and setup.adapter is None and "deepspeed" not in setup.given
    if setup.dtype == "bfloat16" and is_whole and setup.learning_rate:
        yield from lost_steps(checkpoint, setup.learning_rate)


def _examined_data(
    model: str, data: Sequence[str], checkpoint: Checkpoint, settings: ScanSettings, setup: TrainingSetup | None
) -> tuple[dict[str, Any], list[Finding]]:
    """What the rows are like, and the findings on them."""
    inspected = inspect_with_model(
        data, model, settings.reading, settings.loading, settings.limit, settings.max_length, settings.truncation
    )
    seen = {key: inspected[key] for key in ("data", "formats", "usable", "reasons", "lengths")}
    findings = [_counted(notice) for notice in inspected["notices"] if notice["code"] not in checkpoint.warnings]
    if (skipped := sum(inspected["reasons"].values())) > inspected["usable"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in inspected["reasons"].items())
        findings.append(
            finding("D-DATA", f"{skipped:,} rows of those looked at cannot be used: {reasons}", "run entangle inspect")
        )
    rows = _rows(data, checkpoint, settings)
    limit = checkpoint.position_limit or checkpoint.context or math.inf
    fitting = [row.tokens.pair for row in rows if longest_sequence(row) <= limit]
    sides = [side for pair in fitting[:BATCH_PAIRS] for side in (pair.chosen, pair.rejected)]
    findings += batch_findings(checkpoint, sides)
    check = check_engine(checkpoint, fitting)
    findings += engine_findings(check, checkpoint.model.dtype)
    seen["engine"] = asdict(check)
    if setup is not None:
        findings += length_findings(setup, checkpoint.context, rows)
    findings += _on_reference(model, checkpoint, rows, settings)
    return seen, findings


def _rows(data: Sequence[str], checkpoint: Checkpoint, settings: ScanSettings) -> list[PreparedRow]:
    """The usable pairs of the first rows, with all of their tokens."""
    source = open_source(data, settings.reading, settings.limit)
    pairs = pair_reader(source, settings.reading)
    unlimited = replace(checkpoint.tokenizer_of_model, context=None, position_limit=None)
    prepared = RowPreparation(pairs, unlimited, replace(settings, max_length=None))
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
