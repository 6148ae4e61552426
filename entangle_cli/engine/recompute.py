"""Layers whose activations are computed again in the backward pass instead of being kept (activation checkpointing).

The forward pass of a layer keeps its inputs only. In the backward pass the layer runs again under the recorder,
which hooks the gradients as ever, and its own graph is walked and freed before the next layer's. Memory is
that of one layer and of every layer's input; the price is one more forward.
Reference: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def recomputed_layers(model: nn.Module, recorder: TorchFunctionMode) -> Iterator[None]:
    """Inside, the layers that transformers marks as fit for it keep their inputs only.

    Args:
        recorder: entered when a layer runs again.
    """
    layers = [module for module in model.modules() if _is_fit(module)]
    before = [(layer, layer.__dict__.get("forward")) for layer in layers]
    for layer in layers:
        layer.__dict__["forward"] = partial(_run, recorder, layer.forward)
    try:
        yield
    finally:
        for layer, forward in before:
            if forward is None:
                del layer.__dict__["forward"]
            else:
                layer.__dict__["forward"] = forward


def _is_fit(module: nn.Module) -> bool:
    """Whether it is one of transformers' layers for activation checkpointing; by name, since only torch is imported."""
    return any(kind.__name__ == "GradientCheckpointingLayer" for kind in type(module).__mro__)


def _run(recorder: TorchFunctionMode, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if any(isinstance(value, Tensor) and value.requires_grad for value in kwargs.values()):
        # Gradients return through positional arguments only.
        return forward(*args, **kwargs)
    # Without an input that requires a gradient, as above a frozen embedding, autograd would not come back here.
    anchor = torch.zeros((), requires_grad=True)
    return _Recomputed.apply(anchor, recorder, partial(forward, **kwargs), *args)  # type: ignore[no-untyped-call]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _anchor: Tensor, recorder: TorchFunctionMode, forward: Callable[..., Any], *args: Any) -> Any:
        ctx.recorder, ctx.forward = recorder, forward
        ctx.places = [place for place, value in enumerate(args) if isinstance(value, Tensor)]
        ctx.others = [None if isinstance(value, Tensor) else value for value in args]
        ctx.save_for_backward(*(args[place] for place in ctx.places))
        return forward(*args)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        args = list(ctx.others)
        for place, saved in zip(ctx.places, ctx.saved_tensors, strict=True):
            args[place] = saved.detach().requires_grad_(ctx.needs_input_grad[3 + place])
        with torch.enable_grad(), ctx.recorder:
            results = ctx.forward(*args)
        results = results if isinstance(results, tuple) else (results,)
        reached = [
            (result, gradient)
            for result, gradient in zip(results, gradients, strict=True)
            if isinstance(result, Tensor) and result.requires_grad and gradient is not None
        ]
        if reached:
            torch.autograd.backward([result for result, _ in reached], [gradient for _, gradient in reached])
        returned = [value.grad if isinstance(value, Tensor) else None for value in args]
        return None, None, None, *returned
