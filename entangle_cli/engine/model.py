"""Prepares a causal LM for the engine: finds the unembedding and temporarily freezes the parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from entangle_cli.engine.unembedding import Unembedding
from entangle_cli.errors import ModelError


def find_unembedding(model: nn.Module) -> Unembedding:
    """The output embedding of a Hugging Face causal LM, with the logit scale and softcap from its config.

    `coverage.make_plan` checks the result against the model's own logits.

    Raises:
        ModelError: the model has no output embedding.
    """
    get_layer: Any = getattr(model, "get_output_embeddings", None)
    layer = None if get_layer is None else get_layer()
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        raise ModelError(
            f"{type(model).__name__} has no output embedding",
            "a causal language model whose get_output_embeddings() is a linear layer",
            "use a causal LM checkpoint; encoders, reward models and embedding models have no token log-probs",
        )
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return Unembedding(
        weight_VD=weight,
        bias_V=getattr(layer, "bias", None),
        scale=_logit_scale(config),
        softcap=_first_of(config, ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")),
    )


def _logit_scale(config: Any) -> float:
    """The logit factor, under the names used by Cohere, Muse and Falcon-H1. Granite's setting is a divisor."""
    scale = _first_of(config, ("logit_scale", "output_multiplier", "lm_head_multiplier"))
    if scale is not None:
        return scale
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if getattr(config, "model_type", "") == "hyperclovax" else 1.0 / float(scaling)


def _first_of(config: Any, names: Sequence[str]) -> float | None:
    """The value of the first setting in `names` that the config has."""
    return next((float(value) for name in names if (value := getattr(config, name, None)) is not None), None)


def most_positions(model: nn.Module) -> int | None:
    """Most positions that the model is made for; None if its config does not state them.

    Tables of positions end there, and some rotary embeddings change there.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    sizes = [
        getattr(config, name, None)
        for name in ("max_position_embeddings", "original_max_position_embeddings", "n_positions", "max_seq_len")
    ]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=None)


def is_quantised(model: nn.Module) -> bool:
    """Whether the model's weights are quantised."""
    return getattr(model, "quantization_method", None) is not None


@contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """Prepare the model for passes inside the block: frozen, in evaluation mode, with experts as separate layers."""
    device = next(model.parameters()).device
    with _frozen(model), _differentiable_inputs(model), _experts_one_by_one(model), attention_without_plans(device):
        yield


@contextmanager
def attention_without_plans(device: torch.device) -> Iterator[None]:
    """Keep torch from choosing cuDNN's attention on a GPU inside the block.

    cuDNN builds a plan for every new shape, which takes hundreds of milliseconds. Nearly every batch has a new shape.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@contextmanager
def _differentiable_inputs(model: nn.Module) -> Iterator[None]:
    """Make a quantised model's embeddings require gradients inside the block, as in training on quantised weights.

    Otherwise its kernels use inference code without gradients.
    """
    any_model: Any = model
    if not is_quantised(model):
        yield
        return
    handle = any_model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: output.requires_grad_()  # noqa: ARG005 -- as hooks are called
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _experts_one_by_one(model: nn.Module) -> Iterator[None]:
    """Make mixture-of-experts layers call each expert as a separate layer inside the block. This exposes its tokens."""
    any_model: Any = model
    if not hasattr(model, "set_experts_implementation"):
        yield
        return
    before = any_model.get_experts_implementation()
    any_model.set_experts_implementation("eager")
    try:
        yield
    finally:
        any_model.set_experts_implementation(before)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode and disable parameter gradients inside the block. Restore both afterwards."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training
