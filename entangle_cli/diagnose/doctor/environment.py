"""Versions and devices of this machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = (
    *("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "trl", "axolotl", "llamafactory"),
    *("deepspeed", "bitsandbytes", "flash-attn", "liger-kernel", "ray"),
)


def environment() -> dict[str, Any]:
    """Python, installed packages, processor and GPUs; JSON-able."""
    packages = {name: found for name in PACKAGES if (found := _version(name)) is not None}
    gpus = [
        {
            "name": torch.cuda.get_device_name(number),
            "memory": torch.cuda.get_device_properties(number).total_memory,
            "bfloat16": torch.cuda.is_bf16_supported(),
        }
        for number in range(torch.cuda.device_count())
    ]
    return {
        "entangle": version("entangle-cli"),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "packages": packages,
        "cpu_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": gpus,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
