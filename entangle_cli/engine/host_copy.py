"""Numbers of a device that the host needs later, copied without waiting."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """Starts a copy to the host. Only reading it waits for it.

    Args:
        values: integers.
        bound: read instead of each value on the meta device, which has no values.
    """

    def __init__(self, values: Tensor, bound: int) -> None:
        self._copied: torch.cuda.Event | None = None
        if values.is_meta:
            values = torch.full(values.shape, bound)
        elif values.is_cuda:
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = pinned.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        self._values = values

    def read(self) -> list[int]:
        """The values."""
        if self._copied is not None:
            self._copied.synchronize()
        return [int(value) for value in self._values.tolist()]
