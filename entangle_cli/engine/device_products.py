"""Products of linear weights for a device where a launch costs more than flops. `products` has those for a CPU.

A CPU saves flops: half of a symmetric gram, a prefix computed once, one pair at a time in cache. On a GPU, each of
these costs launches of small kernels. Here, one product covers both rows of every pair, and operands keep the model's
dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from entangle_cli.engine.costs import RouteCosts, flops_per_byte
from entangle_cli.engine.products import at_least_float32, chosen_and_rejected

WORKING_BYTES = 2**30
"""Bytes of one product in float32. Larger batches are split."""

GRAM_BYTES = 20
"""Bytes that a gram of gradients moves per element, in float32: a write, the product with the inputs' gram (two reads,
a write), and the read of a sum."""

SHORTEST_HALF = 512
"""Positions of the smallest blocks of a symmetric gram. Smaller blocks leave a GPU partly idle."""


def wide_product(left: Tensor, right: Tensor) -> Tensor:
    """Batched matrix product, accumulated and returned in float32 (float64 for float64).

    The product of two bfloat16 or float16 numbers is exact in float32. Tensor cores multiply them without a conversion.
    """
    if left.dtype == right.dtype and left.dtype.itemsize == 2 and _has_wide_product(left.device.type):
        return torch.bmm(left, right, out_dtype=torch.float32)
    return at_least_float32(left) @ at_least_float32(right)


@cache
def _has_wide_product(device_type: str) -> bool:
    # torch has it from 2.8, and only for CUDA.
    is_known = "dtype" in torch.ops.aten.bmm.overloads()
    return is_known and device_type in ("cuda", "meta") and torch.version.hip is None


class BlockGrams:
    """Grams of the inputs of one or more weights, computed once.

    Attributes:
        same: upper half of every row's positions with themselves (`upper_blocks`).
        mixed_PTT: positions of the chosen row with those of the rejected row.
    """

    def __init__(self, input_BTI: Tensor, num_shared: int) -> None:  # noqa: ARG002 -- as products.InputGrams
        chosen_PTI, rejected_PTI = chosen_and_rejected(input_BTI)
        self.same = [wide_product(left, right.mT) for left, right in upper_blocks(input_BTI)]
        self.mixed_PTT = wide_product(chosen_PTI, rejected_PTI.mT)


def upper_blocks(rows_BTI: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Factors of the blocks that cover the upper half of a symmetric gram, as batches of equal size.

    While a half is long enough, the first half of the positions meets the second, and both are halved in turn. The last
    blocks are on the diagonal. Each batch is one launch, with the rows of B in order. T of 4 * `SHORTEST_HALF` costs
    five eighths of the whole gram.
    """
    parts = rows_BTI
    while parts.shape[1] % 2 == 0 and parts.shape[1] >= 2 * SHORTEST_HALF:
        halves = parts.unflatten(1, (2, -1))
        yield halves[:, 0], halves[:, 1]
        parts = halves.flatten(0, 1)
    yield parts, parts


def gram_elements(num_tokens: int) -> int:
    """Elements of the grams of a pair: the mixed one, and the blocks of both symmetric ones (`upper_blocks`)."""
    elements, size, num_blocks = num_tokens**2, num_tokens, 2
    while size % 2 == 0 and size >= 2 * SHORTEST_HALF:
        size //= 2
        elements += num_blocks * size**2
        num_blocks *= 2
    return elements + num_blocks * size**2


def gram_products(inputs: BlockGrams, gradients: Sequence[Tensor]) -> Tensor:
    """Products of the gradients of one or more weights by the gram route, summed over the weights.

    Args:
        gradients: gradient [B, T, O] at each weight's outputs; zero on padding.
    Returns:
        [3, P], float64.
    Precision: grams in float32 (float64 for float64), their sums in float64.
    Cost: up to 6 T^2 O flops per pair and weight; memory of the input grams and `WORKING_BYTES`.
    """
    return torch.stack([_gram_products(inputs, joined_BTO) for joined_BTO in _joined(gradients)]).sum(0)


def _joined(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Concatenate narrow gradients. One product of them then adds up their grams."""
    num_tokens, itemsize = gradients[0].shape[1], gradients[0].element_size()
    gram_bytes = GRAM_BYTES * gram_elements(num_tokens)
    narrow: list[Tensor] = []
    wide: list[Tensor] = []
    for gradient in gradients:
        is_narrow = _bytes_of_joining(num_tokens, gradient.shape[2], itemsize) < gram_bytes
        (narrow if is_narrow else wide).append(gradient)
    return [*wide, torch.cat(narrow, dim=2)] if len(narrow) > 1 else list(gradients)


def _bytes_of_joining(num_tokens: int, num_outputs: int, itemsize: int) -> int:
    """Bytes that concatenating a gradient reads and writes per pair."""
    return 2 * itemsize * 2 * num_tokens * num_outputs


def _gram_products(inputs: BlockGrams, gradient_BTO: Tensor) -> Tensor:
    chosen_PTO, rejected_PTO = chosen_and_rejected(gradient_BTO)
    *halves, diagonal_B = [
        _weighted_sum(input_gram, *factors).view(gradient_BTO.shape[0], -1).sum(1)
        for input_gram, factors in zip(inputs.same, upper_blocks(gradient_BTO), strict=True)
    ]
    same_B = diagonal_B + 2 * sum(halves) if halves else diagonal_B
    return torch.stack([*chosen_and_rejected(same_B), _weighted_sum(inputs.mixed_PTT, chosen_PTO, rejected_PTO)])


def _weighted_sum(input_gram: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Sum over (t, u) of the product of both grams, one number for each of the first dimension."""
    num_grams, num_tokens, _ = input_gram.shape
    height = max(1, WORKING_BYTES // (4 * num_grams * num_tokens))
    sums = [
        (wide_product(left[:, start : start + height], right.mT) * input_gram[:, start : start + height]).sum(
            (1, 2), dtype=torch.float64
        )
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


def route_costs(num_tokens: int, num_inputs: int, widths: Sequence[int], dtype: torch.dtype) -> RouteCosts:
    """Costs of both routes for the weights that read one input. Data movement per pair, in bytes:

    - the inputs' gram: 4 per element, a write in float32.
    - a gradients' gram: `GRAM_BYTES` per element, shared by all weights that `_joined` concatenates.
    - the two gradients of the materialised route: 32 per element in float32. Two writes, two reads for the norms, their
      product (two reads, a write), the read of a sum.

    Args:
        widths: O of each weight.
        dtype: dtype of the model.
    """
    byte = flops_per_byte(dtype)
    area = gram_elements(num_tokens)
    moved = [min(GRAM_BYTES * area, _bytes_of_joining(num_tokens, width, dtype.itemsize)) for width in widths]
    shares_a_gram = any(bytes_moved < GRAM_BYTES * area for bytes_moved in moved)
    return RouteCosts(
        area * (2 * num_inputs + byte * (4 + GRAM_BYTES * shares_a_gram)),
        [2 * area * width + byte * bytes_moved for width, bytes_moved in zip(widths, moved, strict=True)],
        [num_inputs * width * (4 * num_tokens + 32 * byte) for width in widths],
    )
