"""Allowed errors of the engine against the float64 reference by dtype, with a reason for every number.

Squared norms are judged relative to themselves, inner products relative to the product of the two norms (they
cancel by nature), log-probs relative to themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Tolerance(NamedTuple):
    """Largest accepted errors of one dtype."""

    squared_norm: float
    inner_product: float
    log_prob: float


TOLERANCES = {
    # Both sides compute in float64, so only the order of summation differs.
    torch.float64: Tolerance(squared_norm=1e-9, inner_product=1e-9, log_prob=1e-11),
    # Promised: 1e-5 on norms (so 2e-5 on squares) and 1e-6 on the cosine, of which the inner product is the numerator.
    torch.float32: Tolerance(squared_norm=2e-5, inner_product=1e-5, log_prob=1e-6),
    # Weights and activations carry 8 bits: 2^-9 each, adding up at random over layers. Promised: 1e-2 on norms.
    torch.bfloat16: Tolerance(squared_norm=6e-2, inner_product=4e-2, log_prob=2e-2),
}
