"""What a run says about its scan: the model, the plan, the identity, and the rest of the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from entangle_cli.data.checkpoint import Checkpoint, library_versions
from entangle_cli.data.rows import RowSource
from entangle_cli.data.tokenize import TOKENIZATION
from entangle_cli.diagnose.scan.budget import batch_tokens
from entangle_cli.engine.engine import Engine
from entangle_cli.records.measuring_options import measuring_options
from entangle_cli.records.model_description import ModelDescription
from entangle_cli.records.plan import ScanPlan
from entangle_cli.records.run import Identity
from entangle_cli.records.settings import ReadingSettings, ScanSettings


def describe_model(
    name: str,
    checkpoint: Checkpoint,
    engine: Engine,
    reference_identity: Mapping[str, Any] | None,
    parameters: str,
    device: torch.device,
    num_sharing: int = 1,
) -> ModelDescription:
    """The description of a loaded model.

    Args:
        name: the model's name in messages.
        parameters: the selection of parameters.
        num_sharing: number of processes that share the memory of this machine.
    """
    tokenizer = checkpoint.tokenizer
    return ModelDescription(
        name=name,
        identity=dict(checkpoint.identity),
        reference_identity=None if reference_identity is None else dict(reference_identity),
        parameters=parameters,
        num_model_parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        numel_by_rule={rule.value: count for rule, count in engine.plan.numel_by_rule().items()},
        slow_parameters=dict(engine.plan.reasons),
        warnings=dict(checkpoint.warnings),
        training_step=checkpoint.training_step,
        template_date=checkpoint.template_date,
        special_tokens={"eos_token": tokenizer.eos_token, "bos_token": tokenizer.bos_token},
        context=checkpoint.context,
        position_limit=checkpoint.position_limit,
        num_embeddings=checkpoint.num_embeddings,
        device=str(device),
        hardware=_hardware(device),
        versions={"entangle": version("entangle-cli"), **library_versions()},
        batch_tokens=batch_tokens(device, checkpoint.model, engine.plan.bytes_per_token, num_sharing),
    )


def about_scan(plan: ScanPlan, model: ModelDescription, settings: ScanSettings) -> dict[str, Any]:
    """Manifest entries beside the identity, JSON-able: loss, plan, tokenizer, versions and hardware."""
    return {
        "loss": asdict(settings.loss),
        "plan": asdict(plan),
        "training_step": model.training_step,
        "tokenizer": dict(model.special_tokens),
        "environment": {
            "device": model.device,
            "hardware": model.hardware,
            "versions": dict(model.versions),
        },
    }


def scan_plan(
    model: ModelDescription,
    source: RowSource,
    formats: tuple[str, ...],
    settings: ScanSettings,
    num_selected: int,
    num_workers: int = 1,
) -> ScanPlan:
    """The recognised inputs and the planned work.

    Args:
        formats: formats recognised in the first rows.
        num_selected: number of selected rows.
        num_workers: number of processes that measure.
    """
    return ScanPlan(
        model=model.name,
        data=source.location,
        data_kind=source.kind,
        formats=formats,
        num_rows=source.num_rows,
        num_selected=num_selected,
        num_parameters=model.num_parameters,
        num_model_parameters=model.num_model_parameters,
        numel_by_rule=dict(model.numel_by_rule),
        slow_parameters=dict(model.slow_parameters),
        device=model.device,
        dtype=settings.dtype,
        checkpoint_warnings=dict(model.warnings),
        batch_tokens=settings.batch_tokens or model.batch_tokens,
        max_length=None if settings.max_length is None else int(settings.max_length),
        context=model.context,
        num_workers=num_workers,
        options=measuring_options(settings),
    )


def scan_identity(data: Mapping[str, Any], model: ModelDescription, settings: ScanSettings) -> Identity:
    """Everything that determines a scan's numbers.

    Args:
        data: identity of the rows.
    """
    numbers = {
        name: getattr(settings, name)
        for name in ("dtype", "max_length", "truncation", "parameters", "limit", "sample", "seed")
    }
    reading = {
        name: value for name, value in asdict(settings.reading).items() if value != getattr(ReadingSettings(), name)
    }
    optional = {
        name: value
        for name in ("unshared_cosine", "layers", "include_text", "shard")
        if (value := getattr(settings, name))
    }
    if settings.loading.attn_implementation:
        optional["attn_implementation"] = settings.loading.attn_implementation
    if model.template_date is not None:
        optional["template_date"] = model.template_date
    if settings.until_decided is not None:
        stop = settings.until_decided
        optional["until_decided"] = {
            "rules": list(stop.rules),
            "confidence": stop.confidence,
            "loss": asdict(settings.loss),
        }
    reference = {} if model.reference_identity is None else {"reference": dict(model.reference_identity)}
    return Identity(
        {
            "model": dict(model.identity),
            "data": dict(data),
            "settings": {**numbers, **reading, **optional},
            "tokenization": TOKENIZATION,
            **reference,
        }
    )


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
