"""Models that really compute in the dtype of their weights.

Hugging Face norms and rotary embeddings compute in float32 inside a float64 model. Under this mode every cast to
float32 of a float64 tensor is left out, so that engine and reference can be compared to 1e-9.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class TrueFloat64(TorchFunctionMode):
    """Casts of float64 tensors to float32 return the tensor itself; new float32 constants keep their dtype."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in CASTS and args[0].dtype == torch.float64:
            wants_float32 = func is torch.Tensor.float or torch.float32 in (*args[1:], *kwargs.values())
            if wants_float32:
                return args[0]
        if kwargs.get("dtype") is torch.float32 and func in DTYPE_ARGUMENTS:
            kwargs = {**kwargs, "dtype": None}
        return func(*args, **kwargs)


CASTS = {torch.Tensor.float, torch.Tensor.to, torch.Tensor.type}
DTYPE_ARGUMENTS = {torch.nn.functional.softmax, torch.softmax}
