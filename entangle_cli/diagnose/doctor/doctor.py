"""The whole examination: what can be looked at is, and what cannot is a finding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from entangle_cli.data.checkpoint import Checkpoint, load_checkpoint, quiet_libraries
from entangle_cli.data.device import choose_device
from entangle_cli.data.planned_adapter import with_planned_adapter
from entangle_cli.diagnose.doctor.environment import environment
from entangle_cli.diagnose.doctor.examined_data import examined_data, unusable_data
from entangle_cli.diagnose.doctor.model import attention_kernel, vocabulary_findings
from entangle_cli.diagnose.doctor.training_file import file_findings
from entangle_cli.diagnose.doctor.training_model import training_findings
from entangle_cli.diagnose.doctor.warnings_as_findings import warning
from entangle_cli.errors import EntangleError
from entangle_cli.records.finding import Finding, Severity, finding
from entangle_cli.records.settings import ScanSettings
from entangle_cli.records.training_setup import TrainingSetup

SCHEMA = "entangle.doctor"
SCHEMA_VERSION = "1.0"


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
                seen, found = examined_data(model, name, checkpoint, settings, setup)
                seen_data.append(seen)
            except EntangleError as error:
                found = [unusable_data(error, checkpoint, setup)]
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
        yield warning("W-NO-EOS", "the tokenizer has no end-of-sequence token, so answers do not end with one")
    for code, message in checkpoint.warnings.items():
        yield warning(code, message)
    if setup is not None:
        yield from training_findings(checkpoint, setup)
