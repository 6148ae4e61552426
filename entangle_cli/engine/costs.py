"""What data movement costs next to arithmetic. Routes of products and skipped tokens are chosen by it."""

from __future__ import annotations

import torch

HOST_COPY_FLOPS = 48
"""Cost of copying one float, in flops of a matrix product. On one CPU core it is 10 to 20 if the copy stays in cache,
and over 200 if it needs fresh memory (tests/benchmarks/routes.py)."""

HALF_FLOPS_PER_BYTE = 224
"""bfloat16 or float16 on an H100: 650e12 flops per second over 2.9e12 bytes per second, as good kernels reach. Not
measured by this project."""

FULL_FLOPS_PER_BYTE = 17
"""float32 or float64 on an H100: 50e12 flops per second over 2.9e12 bytes per second. Not measured by this project."""


def flops_per_byte(dtype: torch.dtype) -> int:
    """Flops of a matrix product in the time that a device moves one byte."""
    return HALF_FLOPS_PER_BYTE if dtype.itemsize == 2 else FULL_FLOPS_PER_BYTE


def copy_flops(device: torch.device, dtype: torch.dtype) -> int:
    """Flops of a matrix product in the time of copying one number: a read and a write."""
    if device.type == "cpu":
        return HOST_COPY_FLOPS
    return 2 * dtype.itemsize * flops_per_byte(dtype)
