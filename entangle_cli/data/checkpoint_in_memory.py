"""Models of the caller as checkpoints: loaded ones, and ones that a trainer is changing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from entangle_cli.data.checkpoint import Checkpoint
from entangle_cli.data.checkpoint_checks import refuse_not_finite, refuse_other_models
from entangle_cli.data.in_memory import ModelInMemory
from entangle_cli.data.language_part import language_parameters
from entangle_cli.data.model_config import context_of, position_limit
from entangle_cli.errors import UsageError


def checkpoint_in_memory(given: ModelInMemory, dtype: str) -> Checkpoint:
    """Wrap a loaded model without moving or changing its weights.

    The model is set to evaluation mode. For a PEFT model, the base with the adapter's layers is measured.

    Args:
        dtype: the dtype in the settings.
    Raises:
        ModelError: the model is not a causal LM, or its weights are not finite.
        UsageError: the weights have another dtype.
    """
    model = _without_wrapper(given.model)
    refuse_other_models(given.name, model.config)
    if (own_dtype := str(model.dtype).removeprefix("torch.")) != dtype:
        raise UsageError(
            f"dtype {dtype}, but the model's weights are {own_dtype}",
            "the dtype of the weights",
            f"set dtype={own_dtype!r}, or convert the model: model.to(torch.{dtype})",
        )
    refuse_not_finite(given.name, model)
    model.eval()
    return _checkpoint(given, {"name": given.name, "sha256": _weights_sha256(model)})


def checkpoint_in_training(given: ModelInMemory, step: int) -> Checkpoint:
    """Wrap the model of a trainer at a step. The identity has the step instead of a hash of the weights.

    The mode of the model stays as it is.

    Raises:
        ModelError: the model is not a causal LM.
    """
    refuse_other_models(given.name, _without_wrapper(given.model).config)
    return _checkpoint(given, {"name": given.name, "training_step": step}, step)


def _checkpoint(given: ModelInMemory, identity: Mapping[str, Any], step: int | None = None) -> Checkpoint:
    model = _without_wrapper(given.model)
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return Checkpoint(
        model=model,
        tokenizer=given.tokenizer,
        identity=identity,
        position_limit=position_limit(model.config),
        context=context_of(model.config),
        adapter_parameters=frozenset(trained if model is not given.model else ()),
        language_parameters=language_parameters(model),
        training_step=step,
    )


def _without_wrapper(model: Any) -> Any:
    """The model in which PEFT put an adapter's layers; any other model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def _weights_sha256(model: nn.Module) -> str:
    """SHA-256 of the weights' names and bytes, ordered by name, hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
