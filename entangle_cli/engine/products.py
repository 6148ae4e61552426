"""Products of per-row gradients, from inputs and output gradients: pure functions of tensors.

For a weight used as y = x W, one row's gradient is the sum over tokens of outer products x_t q_t, with q the gradient
at y. For two rows a and b, this gives

    <G_a, G_b> = sum_{t,u} (x_at . x_bu) (q_at . q_bu)        gram route
               = <x_a' q_a, x_b' q_b>                          materialised route

Both routes are exact. "Products" are float64 [3, P], as defined in the package docstring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from entangle_cli.engine.costs import RouteCosts

MIN_SYMMETRIC_STRIP = 64
"""Minimum rows per strip of a symmetric gram. Narrower strips cost more speed than skipping the lower half saves."""

MIXED_STRIP = 512
"""Rows per strip of a gram between two sides. Bounds its memory."""


def chosen_and_rejected(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Split a tensor along its first dimension, the B rows of a batch, into chosen and rejected rows."""
    num_pairs = rows.shape[0] // 2
    return rows[:num_pairs], rows[num_pairs:]


def at_least_float32(values: Tensor) -> Tensor:
    """Convert `values` to float32 for accumulation; float64 stays float64."""
    return values if values.dtype == torch.float64 else values.float()


def vector_products(gradient_BK: Tensor) -> Tensor:
    """Products of gradients that are small enough to hold in memory, one vector per row."""
    chosen_PK, rejected_PK = chosen_and_rejected(gradient_BK.double())
    return torch.stack([chosen_PK.square().sum(-1), rejected_PK.square().sum(-1), (chosen_PK * rejected_PK).sum(-1)])


class InputGrams:
    """Grams x_t . x_u of the inputs of one or more weights, computed once.

    Both rows of a pair have the same inputs at the S shared positions, the prefix. After it, each row has its own
    positions. All grams therefore consist of six blocks. For the three symmetric ones, the strips right of the diagonal
    are enough (`upper_strips`).

    Attributes:
        prefix: strips of prefix x prefix.
        own_chosen, own_rejected: strips of own positions x own positions, per row.
        prefix_chosen, prefix_rejected: prefix x own positions.
        mixed: own positions of the chosen row x own positions of the rejected row.
    """

    def __init__(self, input_BTI: Tensor, num_shared: int) -> None:
        self.num_shared = num_shared
        chosen_PTI, rejected_PTI = chosen_and_rejected(at_least_float32(input_BTI))
        prefix, chosen, rejected = chosen_PTI[:, :num_shared], chosen_PTI[:, num_shared:], rejected_PTI[:, num_shared:]
        self.prefix = list(upper_strips(prefix))
        self.own_chosen, self.own_rejected = list(upper_strips(chosen)), list(upper_strips(rejected))
        self.prefix_chosen, self.prefix_rejected = prefix @ chosen.mT, prefix @ rejected.mT
        self.mixed = chosen @ rejected.mT


def upper_strips(rows_PTI: Tensor) -> Iterator[Tensor]:
    """The symmetric gram of rows with themselves, in strips [P, t, T - start] from the diagonal to the right.

    Cost: five eighths of the whole gram, for strips of T / 4 rows.
    """
    num_tokens = rows_PTI.shape[1]
    height = _strip_height(num_tokens)
    for start in range(0, num_tokens, height):
        yield rows_PTI[:, start : start + height] @ rows_PTI[:, start:].mT


def _strip_height(num_tokens: int) -> int:
    return max(MIN_SYMMETRIC_STRIP, num_tokens // 4)


def gram_products(inputs: InputGrams, gradients: Sequence[Tensor]) -> Tensor:
    """Products of the gradients of one or more weights by the gram route, summed over the weights.

    On the prefix, both rows share the symmetric input gram X. There, sum(X * (Q_c Q_r')) follows by polarisation from
    the symmetric sums of Q_c, Q_r and Q_c + a Q_r. Each sum costs half of a full product. With a as the ratio of the
    two norms, the rounding error is relative to the product of the norms, as for a direct product.

    Args:
        inputs: grams of the weights' inputs.
        gradients: gradient [B, T, O] at each weight's outputs; zero on padding.
    Precision: grams in float32 (float64 for float64 inputs), sums over their rows in float64.
    Cost: see `route_costs`; memory of the input grams and one strip.
    """
    return torch.stack([_gram_products(inputs, gradient_BTO) for gradient_BTO in gradients]).sum(0)


def _gram_products(inputs: InputGrams, gradient_BTO: Tensor) -> Tensor:
    chosen_PTO, rejected_PTO = chosen_and_rejected(at_least_float32(gradient_BTO))
    shared = inputs.num_shared
    chosen_prefix, chosen = chosen_PTO[:, :shared], chosen_PTO[:, shared:]
    rejected_prefix, rejected = rejected_PTO[:, :shared], rejected_PTO[:, shared:]
    of_chosen = _symmetric_sum(inputs.prefix, chosen_prefix)
    of_rejected = _symmetric_sum(inputs.prefix, rejected_prefix)
    ratio_P = torch.where((of_chosen > 0) & (of_rejected > 0), (of_chosen / of_rejected).sqrt(), 1.0)
    of_both = _symmetric_sum(
        inputs.prefix, torch.addcmul(chosen_prefix, ratio_P.to(chosen_PTO.dtype)[:, None, None], rejected_prefix)
    )
    return torch.stack(
        [
            of_chosen
            + 2 * _mixed_sum(inputs.prefix_chosen, chosen_prefix, chosen)
            + _symmetric_sum(inputs.own_chosen, chosen),
            of_rejected
            + 2 * _mixed_sum(inputs.prefix_rejected, rejected_prefix, rejected)
            + _symmetric_sum(inputs.own_rejected, rejected),
            (of_both - of_chosen - ratio_P**2 * of_rejected) / (2 * ratio_P)
            + _mixed_sum(inputs.prefix_chosen, rejected_prefix, chosen)
            + _mixed_sum(inputs.prefix_rejected, chosen_prefix, rejected)
            + _mixed_sum(inputs.mixed, chosen, rejected),
        ]
    )


def _symmetric_sum(input_strips: Sequence[Tensor], gradient_PTO: Tensor) -> Tensor:
    """Sum over (t, u) of the product of both grams, [P]. Entries right of the diagonal count twice."""
    total_P = gradient_PTO.new_zeros(gradient_PTO.shape[0], dtype=torch.float64)
    for input_strip, weighted_PtT in zip(input_strips, upper_strips(gradient_PTO), strict=True):
        weighted_PtT *= input_strip
        weighted_PtT[:, :, weighted_PtT.shape[1] :] *= 2.0
        total_P += weighted_PtT.sum(-1).sum(-1, dtype=torch.float64)
    return total_P


def _mixed_sum(input_gram_PTU: Tensor, left_PTO: Tensor, right_PUO: Tensor) -> Tensor:
    """Sum over (t, u) of the product of both grams, [P]."""
    total_P = input_gram_PTU.new_zeros(left_PTO.shape[0], dtype=torch.float64)
    for start in range(0, left_PTO.shape[1], MIXED_STRIP):
        weighted_PtU = left_PTO[:, start : start + MIXED_STRIP] @ right_PUO.mT
        weighted_PtU *= input_gram_PTU[:, start : start + MIXED_STRIP]
        total_P += weighted_PtU.sum(-1).sum(-1, dtype=torch.float64)
    return total_P


def materialised_products(input_BTI: Tensor, gradient_BTO: Tensor) -> Tensor:
    """Products of a weight's gradients, by building both gradients of one pair at a time.

    Precision: gradients in float32 (float64 for float64), their products summed row by row in float64.
    Cost: 4 T I O flops per pair; memory of two gradients of the weight.
    """
    inputs = chosen_and_rejected(at_least_float32(input_BTI))
    gradients = chosen_and_rejected(at_least_float32(gradient_BTO))
    num_pairs = inputs[0].shape[0]
    products = torch.empty(3, num_pairs, dtype=torch.float64, device=input_BTI.device)
    for pair in range(num_pairs):
        chosen_IO, rejected_IO = (
            side_PTI[pair].transpose(0, 1) @ side_PTO[pair]
            for side_PTI, side_PTO in zip(inputs, gradients, strict=True)
        )
        products[:, pair] = matrix_products(chosen_IO, rejected_IO)
    return products


def routed_products(input_GI: Tensor, gradient_GO: Tensor, rows_G: Tensor, num_rows: int) -> Tensor:
    """Products of a weight's gradients, for tokens gathered from anywhere in the batch; see `routed_gram`."""
    by_rows_BB = routed_gram(input_GI, gradient_GO, rows_G, num_rows)
    num_pairs = num_rows // 2
    both_chosen, both_rejected = by_rows_BB.diagonal()[:num_pairs], by_rows_BB.diagonal()[num_pairs:]
    return torch.stack([both_chosen, both_rejected, by_rows_BB.diagonal(num_pairs)])


def routed_gram(input_GI: Tensor, gradient_GO: Tensor, rows_G: Tensor, num_rows: int) -> Tensor:
    """Inner products between all rows' gradients of a weight, for tokens gathered from anywhere in the batch.

    The gram M holds the products of all tokens. H' M H sums them by the tokens' rows, where H[t, r] = [token t is in
    row r].

    Args:
        rows_G: batch row of each token, int64.
        num_rows: B.
    Returns:
        float64 [B, B].
    Precision: grams in float32 (float64 for float64), sums over tokens in float64.
    Cost: 2 G^2 (I + O) flops; memory of `ROUTED_TILE_TOKENS` * G.
    """
    inputs, gradients = at_least_float32(input_GI), at_least_float32(gradient_GO)
    members_GB = torch.zeros(rows_G.numel(), num_rows, dtype=torch.float64, device=rows_G.device)
    members_GB.scatter_(1, rows_G.unsqueeze(1), 1.0)
    by_rows_BB = members_GB.new_zeros(num_rows, num_rows)
    for start in range(0, rows_G.numel(), ROUTED_TILE_TOKENS):
        tile = slice(start, start + ROUTED_TILE_TOKENS)
        weighted_gG = gradients[tile] @ gradients.T
        weighted_gG *= inputs[tile] @ inputs.T
        by_rows_BB += members_GB[tile].T @ (weighted_gG.double() @ members_GB)
    return by_rows_BB


ROUTED_TILE_TOKENS = 1024
"""Bounds the memory of `routed_gram`."""


def matrix_products(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Products of gradients given as matrices [..., rows, columns].

    Precision: sums over columns in the gradients' dtype, sums over rows in float64.

    Returns:
        [3, ...], float64.
    """
    return torch.stack(
        [
            torch.linalg.vecdot(left, right).sum(-1, dtype=torch.float64)
            for left, right in [(chosen, chosen), (rejected, rejected), (chosen, rejected)]
        ]
    )


def route_costs(num_tokens: int, num_shared: int, num_inputs: int, widths: Sequence[int]) -> RouteCosts:
    """Costs of both routes for the weights that read one input.

    Flops are those of `gram_products`. A materialised gradient is also written once and read three times. This costs
    about `MATERIALISED_TRAFFIC_FLOPS` per element.

    Args:
        widths: O of each weight.
    """
    num_own = num_tokens - num_shared
    prefix_area, own_area = _strip_area(num_shared), _strip_area(num_own)
    gradient_area = 3 * prefix_area + 2 * own_area + 4 * num_shared * num_own + num_own**2
    input_area = prefix_area + 2 * own_area + 2 * num_shared * num_own + num_own**2
    return RouteCosts(
        2 * input_area * num_inputs,
        [2 * gradient_area * width for width in widths],
        [num_inputs * width * (4 * num_tokens + MATERIALISED_TRAFFIC_FLOPS) for width in widths],
    )


def _strip_area(num_tokens: int) -> float:
    """Number of elements of a symmetric gram that `upper_strips` computes."""
    return num_tokens * (num_tokens + min(_strip_height(num_tokens), num_tokens)) / 2


MATERIALISED_TRAFFIC_FLOPS = 60
"""Measured on one core: at 512 tokens the reductions add about 3 % to the 2,048 flops per element. The cost model picks
the faster route in all 12 layers of tests/benchmarks/routes.py."""


def lookup_sums(ids_BT: Tensor, gradient_BTD: Tensor) -> Tensor:
    """Gradient of an embedding per batch row, restricted to the ids in the row's pair, [B, 2 T, D].

    The gradient of a table row is the sum of the gradients at its lookups. A pair looks up at most 2 T distinct ids.
    Each id gets a slot, the same in both rows of the pair. Slots come from sorting, because a count of distinct ids
    would need a transfer from the device.
    """
    num_tokens = ids_BT.shape[1]
    pair_ids = torch.cat(chosen_and_rejected(ids_BT), dim=1)
    ordered, order = pair_ids.sort(dim=1)
    is_new = torch.zeros_like(ordered)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    slots = torch.empty_like(ordered).scatter_(1, order, is_new.cumsum(1))
    slots_BT = torch.cat([slots[:, :num_tokens], slots[:, num_tokens:]])
    values_BTD = at_least_float32(gradient_BTD)
    sums = values_BTD.new_zeros(values_BTD.shape[0], 2 * num_tokens, values_BTD.shape[2])
    return sums.scatter_add_(1, slots_BT.unsqueeze(-1).expand_as(values_BTD), values_BTD)


def lookup_products(ids_BT: Tensor, gradient_BTD: Tensor) -> Tensor:
    """Products of an embedding's gradients. Cost: linear in T; memory of 2 T table rows per batch row."""
    return matrix_products(*chosen_and_rejected(lookup_sums(ids_BT, gradient_BTD)))


def per_row_sum(values: Tensor, shape: torch.Size) -> Tensor:
    """Per-row gradient of a broadcast parameter of `shape`, flattened, [B, numel].

    The gradient is summed over the dimensions that the parameter lacks or has with size 1. The row dimension is kept.
    """
    if len(shape) == values.dim():
        shape = shape[1:]
    padded = (values.shape[0], *(1,) * (values.dim() - 1 - len(shape)), *shape)
    broadcast = [dimension for dimension, size in enumerate(padded) if size != values.shape[dimension]]
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    summed = values.sum(broadcast, dtype=dtype) if broadcast else values.to(dtype)
    return summed.reshape(values.shape[0], -1)
