"""Sets the dtype of a model's computation for a while. The weights themselves stay untouched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def computing_in(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Make a model compute in `dtype` inside the block, without autocast.

    If the model has another dtype, copies of its floating-point parameters take the place of the parameters in its
    modules. The parameters are not converted in place: their gradient hooks, such as those of DistributedDataParallel,
    would be lost. Tied parameters share one copy.

    Memory: the copies.
    """
    any_model: Any = model
    with _without_autocast(model):
        if any_model.dtype == dtype:
            yield
            return
        originals = [
            (module, name, parameter)
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter.is_floating_point() and parameter.dtype != dtype
        ]
        copies: dict[int, nn.Parameter] = {}
        try:
            for module, name, parameter in originals:
                if id(parameter) not in copies:
                    copies[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
                module._parameters[name] = copies[id(parameter)]
            yield
        finally:
            for module, name, parameter in originals:
                module._parameters[name] = parameter


@contextmanager
def _without_autocast(model: nn.Module) -> Iterator[None]:
    """Use the forward method that accelerate wrapped in autocast.

    Inside autocast, the dtypes of weights, activations and gradients differ.
    """
    wrapped = model.__dict__.get("forward")
    original = model.__dict__.get("_original_forward")
    if wrapped is None or original is None:
        yield
        return
    model.__dict__["forward"] = original
    try:
        yield
    finally:
        model.__dict__["forward"] = wrapped
