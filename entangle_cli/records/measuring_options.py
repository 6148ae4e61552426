"""Options of a command line that decide which pairs are measured, as which tokens and on which weights."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from entangle_cli.records.settings import LoraSettings, ReadingSettings, ScanSettings, Truncation

MEASURING_OPTIONS = (
    *("split", "config-name", "data-revision", "data-format", "map", "ranked", "max-row-bytes", "truncation"),
    *(
        "tokenizer",
        "chat-template",
        "template-date",
        "model-revision",
        "base-model",
        "attn-implementation",
        "lora",
        "seed",
    ),
)
"""Without their dashes. Those that let a checkpoint run code are not among them: a stored run must not suggest them."""


def measuring_options(settings: ScanSettings) -> dict[str, list[str]]:
    """Option to its values, without those that have their default. The model, the data and the length are not in it."""
    reading, loading, usual = settings.reading, settings.loading, ReadingSettings()
    values: dict[str, Any] = {
        "split": reading.split,
        "config-name": reading.config_name,
        "data-revision": reading.revision,
        "data-format": reading.data_format,
        "ranked": None if reading.ranked == usual.ranked else reading.ranked,
        "max-row-bytes": None if reading.max_row_bytes == usual.max_row_bytes else reading.max_row_bytes,
        "truncation": None if settings.truncation == Truncation.KEEP_START else settings.truncation,
        "tokenizer": loading.tokenizer,
        "chat-template": loading.chat_template,
        "template-date": loading.template_date,
        "model-revision": loading.revision,
        "base-model": loading.base_model,
        "attn-implementation": loading.attn_implementation,
        "lora": None if settings.lora is None else lora_text(settings.lora),
        "seed": settings.seed if settings.lora is not None and settings.seed else None,
    }
    found = {name: [str(value)] for name, value in values.items() if value is not None}
    if reading.columns:
        found["map"] = [f"{role}={column}" for role, column in reading.columns.items()]
    return found


def option_words(options: Any) -> str:
    """Known options as words of a shell, each after a blank. What else a stored run has there is left out."""
    if not isinstance(options, Mapping):
        return ""
    words = []
    for name in MEASURING_OPTIONS:
        values = options.get(name)
        for value in values if isinstance(values, list) else []:
            words += [f"--{name}", shlex.quote(str(value))]
    return "".join(f" {word}" for word in words)


def lora_text(lora: LoraSettings) -> str:
    """An adapter as `--lora` takes it."""
    parts = [f"r={lora.r}", f"alpha={lora.alpha:.12g}"]
    if lora.targets:
        parts.append(f"targets={'+'.join(lora.targets)}")
    if lora.dropout:
        parts.append(f"dropout={lora.dropout:.12g}")
    parts += [f"{name}=true" for name, wanted in (("rslora", lora.rslora), ("dora", lora.dora)) if wanted]
    if lora.modules_to_save:
        parts.append(f"modules_to_save={'+'.join(lora.modules_to_save)}")
    return ",".join(parts)
