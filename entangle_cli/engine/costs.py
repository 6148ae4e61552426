"""What data movement costs next to arithmetic. Routes of products and skipped tokens are chosen by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

HOST_COPY_FLOPS = 48
"""Cost of copying one float, in flops of a matrix product. On one CPU core it is 10 to 20 if the copy stays in cache,
and over 200 if it needs fresh memory (tests/benchmarks/routes.py)."""

HALF_FLOPS_PER_BYTE = 224
"""bfloat16 or float16 on an H100: 650e12 flops per second over 2.9e12 bytes per second, as good kernels reach. Not
measured by this project."""

FULL_FLOPS_PER_BYTE = 17
"""float32 or float64 on an H100: 50e12 flops per second over 2.9e12 bytes per second. Not measured by this project."""


@dataclass(frozen=True, slots=True)
class RouteCosts:
    """Estimated costs per pair for the weights that read one input, in flops of a matrix product."""

    input_grams: float
    """Paid once if at least one weight takes the gram route."""
    gram: Sequence[float]
    """Of each weight on the gram route."""
    materialised: Sequence[float]
    """Of each weight on the materialised route."""

    def on_gram_route(self) -> list[bool]:
        """Whether each weight takes the gram route, for the lowest total."""
        saved = [materialised - gram for gram, materialised in zip(self.gram, self.materialised, strict=True)]
        are_worth_it = sum(amount for amount in saved if amount > 0) >= self.input_grams
        return [are_worth_it and amount >= 0 for amount in saved]


def flops_per_byte(dtype: torch.dtype) -> int:
    """Flops of a matrix product in the time that a device moves one byte."""
    return HALF_FLOPS_PER_BYTE if dtype.itemsize == 2 else FULL_FLOPS_PER_BYTE


def copy_flops(device: torch.device, dtype: torch.dtype) -> int:
    """Flops of a matrix product in the time of copying one number: a read and a write."""
    if device.type == "cpu":
        return HOST_COPY_FLOPS
    return 2 * dtype.itemsize * flops_per_byte(dtype)
