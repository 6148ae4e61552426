"""Products of linear weights for a device where a launch costs more than flops. `products` has those for a CPU.

A CPU saves flops: half of a symmetric gram, a prefix computed once, one pair at a time in cache. On a GPU, each of
these costs launches of small kernels. Here, one product covers both rows of every pair, and operands keep the model's
dtype.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from entangle_cli.engine.costs import flops_per_byte
from entangle_cli.engine.products import at_least_float32, chosen_and_rejected

WORKING_BYTES = 2**30
"""Bytes of one product in float32. Larger batches are split."""


def wide_product(left: Tensor, right: Tensor) -> Tensor:
    """Batched matrix product, accumulated and returned in float32 (float64 for float64).

    The product of two bfloat16 or float16 numbers is exact in float32. Tensor cores multiply them without a conversion.
    """
    if left.dtype == right.dtype and left.dtype.itemsize == 2 and _has_wide_product(left.device):
        return torch.bmm(left, right, out_dtype=torch.float32)
    return at_least_float32(left) @ at_least_float32(right)


def _has_wide_product(device: torch.device) -> bool:
    # torch has it from 2.8, and only for CUDA.
    is_known = "dtype" in torch.ops.aten.bmm.overloads()
    return is_known and device.type in ("cuda", "meta") and torch.version.hip is None


class WholeGrams:
    """Grams of the inputs of one or more weights, computed once.

    Attributes:
        same_BTT: every row's positions with themselves.
        mixed_PTT: positions of the chosen row with those of the rejected row.
    """

    def __init__(self, input_BTI: Tensor, num_shared: int) -> None:  # noqa: ARG002 -- as products.InputGrams
        chosen_PTI, rejected_PTI = chosen_and_rejected(input_BTI)
        self.same_BTT = wide_product(input_BTI, input_BTI.mT)
        self.mixed_PTT = wide_product(chosen_PTI, rejected_PTI.mT)


def gram_products(inputs: WholeGrams, gradient_BTO: Tensor) -> Tensor:
    """Products of a weight's gradients by the gram route.

    Args:
        gradient_BTO: gradient at the weight's outputs; zero on padding.
    Returns:
        [3, P], float64.
    Precision: grams in float32 (float64 for float64), sums over their rows in float64.
    Cost: 6 T^2 O flops per pair; memory of the input grams and `WORKING_BYTES`.
    """
    chosen_PTO, rejected_PTO = chosen_and_rejected(gradient_BTO)
    same_B = _weighted_sum(inputs.same_BTT, gradient_BTO, gradient_BTO)
    return torch.stack([*chosen_and_rejected(same_B), _weighted_sum(inputs.mixed_PTT, chosen_PTO, rejected_PTO)])


def _weighted_sum(input_gram: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Sum over (t, u) of the product of both grams, one number for each of the first dimension."""
    num_grams, num_tokens, _ = input_gram.shape
    height = max(1, WORKING_BYTES // (4 * num_grams * num_tokens))
    sums = [
        (wide_product(left[:, start : start + height], right.mT) * input_gram[:, start : start + height])
        .sum(-1)
        .sum(-1, dtype=torch.float64)
        for start in range(0, num_tokens, height)
    ]
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)


def materialised_products(input_BTI: Tensor, gradient_BTO: Tensor) -> Tensor:
    """Products of a weight's gradients, by building the gradients of as many pairs as `WORKING_BYTES` holds.

    Returns:
        [3, P], float64.
    Precision: gradients in float32 (float64 for float64), their products summed row by row in float64.
    Cost: 4 T I O flops per pair.
    """
    return torch.cat(list(_materialised(input_BTI, gradient_BTO)), dim=1)


def _materialised(input_BTI: Tensor, gradient_BTO: Tensor) -> Iterator[Tensor]:
    inputs, gradients = chosen_and_rejected(input_BTI), chosen_and_rejected(gradient_BTO)
    num_pairs, _, num_inputs = inputs[0].shape
    step = max(1, WORKING_BYTES // (8 * num_inputs * gradient_BTO.shape[2]))
    for start in range(0, num_pairs, step):
        pairs = slice(start, start + step)
        chosen, rejected = (
            wide_product(side_PTI[pairs].mT, side_PTO[pairs])
            for side_PTI, side_PTO in zip(inputs, gradients, strict=True)
        )
        # A norm reads its matrix once and writes one number a row. A product of two matrices would be written whole.
        rows = [torch.linalg.vector_norm(side, dim=-1).square() for side in (chosen, rejected)]
        rows.append(chosen.mul_(rejected).sum(-1))
        yield torch.stack(rows).sum(-1, dtype=torch.float64)


def gram_is_cheaper(num_tokens: int, num_inputs: int, num_outputs: int, num_users: int, dtype: torch.dtype) -> bool:
    """Whether the gram route is cheaper than the materialised route for a weight.

    Per pair, the grams have 3 T^2 elements. In float32, an element costs this many bytes:

    - gradients' gram, 20: a write, the product with the inputs' gram (two reads, a write), the read of the sum.
    - inputs' gram, 4: a write, shared by all users.
    - the two gradients, 32: two writes, two reads for the norms, their product (two reads, a write), the read of a sum.

    Args:
        num_users: number of weights that share the inputs and their grams.
    """
    byte = flops_per_byte(dtype)
    area = 3 * num_tokens**2
    gram = area * (2 * (num_outputs + num_inputs / num_users) + byte * (20 + 4 / num_users))
    materialised = num_inputs * num_outputs * (4 * num_tokens + 32 * byte)
    return gram <= materialised
