"""What a run says about its scan: the plan, the identity, and the rest of the manifest."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from entangle_cli.data.checkpoint import Checkpoint, library_versions
from entangle_cli.data.rows import RowSource
from entangle_cli.data.tokenize import TOKENIZATION
from entangle_cli.diagnose.processes.ranks import Ranks
from entangle_cli.diagnose.scan.budget import batch_tokens
from entangle_cli.diagnose.scan.reference import Reference
from entangle_cli.diagnose.scan.row_reader import RowReader
from entangle_cli.engine.engine import Engine
from entangle_cli.records.plan import ScanPlan
from entangle_cli.records.run import Identity
from entangle_cli.records.settings import ReadingSettings, ScanSettings


def about_scan(plan: ScanPlan, checkpoint: Checkpoint, settings: ScanSettings) -> dict[str, Any]:
    """Manifest entries beside the identity, JSON-able: loss, plan, tokenizer, versions and hardware."""
    tokenizer = checkpoint.tokenizer
    return {
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


def scan_plan(
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
    """The recognised inputs and the planned work.

    Args:
        model: the model's name in messages.
        formats: formats recognised in the first rows.
        num_selected: number of selected rows.
    """
    budget = settings.batch_tokens or batch_tokens(
        device, checkpoint.model, engine.plan.bytes_per_token, ranks.local_size
    )
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


def scan_identity(
    reader: RowReader, checkpoint: Checkpoint, reference: Reference | None, settings: ScanSettings
) -> Identity:
    """Everything that determines a scan's numbers."""
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
    if checkpoint.template_date is not None:
        optional["template_date"] = checkpoint.template_date
    if settings.until_decided is not None:
        stop = settings.until_decided
        optional["until_decided"] = {
            "rules": list(stop.rules),
            "confidence": stop.confidence,
            "loss": asdict(settings.loss),
        }
    return Identity(
        {
            "model": dict(checkpoint.identity),
            "data": reader.identity,
            "settings": {**numbers, **reading, **optional},
            "tokenization": TOKENIZATION,
            **({} if reference is None else {"reference": dict(reference.identity)}),
        }
    )


def _hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    return f"CPU, {torch.get_num_threads()} threads"
