"""Activation checkpointing: layers recompute their activations in the backward pass instead of keeping them.

In the forward pass a layer keeps only its inputs. In the backward pass it runs again under the recorder, and the
recorder hooks its gradients as usual. The layer's graph is freed before the next layer runs. Memory is that of one
layer plus every layer's input. The cost is one more forward pass.
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
    """Enable recomputation inside the block, for the layers that transformers marks for checkpointing.

    Args:
        recorder: the mode to enter when a layer runs again.
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
    """Whether transformers supports checkpointing of a layer. Checks the class name, because only torch is imported."""
    return any(kind.__name__ == "GradientCheckpointingLayer" for kind in type(module).__mro__)


def _run(recorder: TorchFunctionMode, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if any(isinstance(value, Tensor) and value.requires_grad for value in kwargs.values()):
        # Gradients flow through positional arguments only.
        return forward(*args, **kwargs)
    # If no input requires a gradient, for example after a frozen embedding, autograd would not call backward.
    anchor = torch.zeros((), requires_grad=True)
    return _Recomputed.apply(anchor, recorder, partial(forward, **kwargs), *args)  # type: ignore[no-untyped-call]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _anchor: Tensor, recorder: TorchFunctionMode, forward: Callable[..., Any], *args: Any) -> Any:
        ctx.recorder, ctx.forward = recorder, forward
        ctx.positions = [position for position, value in enumerate(args) if isinstance(value, Tensor)]
        ctx.others = [None if isinstance(value, Tensor) else value for value in args]
        ctx.save_for_backward(*(args[position] for position in ctx.positions))
        return forward(*args)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        args = list(ctx.others)
        for position, saved in zip(ctx.positions, ctx.saved_tensors, strict=True):
            args[position] = saved.detach().requires_grad_(ctx.needs_input_grad[3 + position])
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
