"""Refuses models whose weights are spread over processes. Their gradients are not whole in any process."""

from __future__ import annotations

from typing import Any

from entangle_cli.errors import ModelError


def refuse_sharded(model: Any) -> None:
    """Check that every parameter is whole.

    Args:
        model: a trainer's model, with the wrappers that spread its weights.
    Raises:
        ModelError: FSDP, DeepSpeed ZeRO-3 or tensor parallelism has split the weights.
    """
    if (how := _how_sharded(model)) is not None:
        raise ModelError(
            f"{how}: the weights are spread over several processes",
            "whole weights in every process, as with DistributedDataParallel, ZeRO-1 or ZeRO-2",
            "scan the saved checkpoints instead: entangle scan OUTPUT_DIR DATA --checkpoints all",
            topic="training",
        )


def _how_sharded(model: Any) -> str | None:
    if any(_is_a(module, "FullyShardedDataParallel") for module in model.modules()):
        return "FSDP"
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            return f"{name} is partitioned by DeepSpeed ZeRO-3"
        if _is_a(parameter, "DTensor") or _is_a(parameter.data, "DTensor"):
            return f"{name} is a DTensor, as with FSDP2 or tensor parallelism"
    return None


def _is_a(value: object, class_name: str) -> bool:
    """Whether a value has a class of this name. The classes are not imported: not every build of torch has them."""
    return any(kind.__name__ == class_name for kind in type(value).__mro__)
