"""Results of a device that the host needs later, copied without waiting."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class HostCopy:
    """Starts one copy of some tensors to the host. Only reading them waits, and only for what came before the copy.

    Args:
        tensors: name to tensor, all of one dtype.
        bound: what to read for each number of the meta device, which has none.
    """

    def __init__(self, tensors: Mapping[str, Tensor], bound: int = 0) -> None:
        self._shapes = {name: tensor.shape for name, tensor in tensors.items()}
        device = next(iter(tensors.values())).device
        flat = torch.cat([tensor.to(device).flatten() for tensor in tensors.values()])
        self._copied: torch.cuda.Event | None = None
        if flat.is_meta:
            flat = torch.full(flat.shape, bound, dtype=flat.dtype)
        elif flat.is_cuda:
            pinned = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
            flat = pinned.copy_(flat, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(device))
        self._flat = flat

    def read(self) -> dict[str, Tensor]:
        """Name to tensor on the host."""
        if self._copied is not None:
            self._copied.synchronize()
        parts = self._flat.split([shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
