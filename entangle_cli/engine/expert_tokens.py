"""Experts of a mixture on tokens sorted by expert: one call computes a layer's experts, as transformers' "grouped_mm".

Every token goes to the same number of experts. A batch therefore has M gathered tokens per pair, whatever the router
decides, and nothing about the sizes needs to be read from a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from entangle_cli.engine.device_products import wide_product
from entangle_cli.engine.host_copy import HostCopy

TILE = 256
"""Rows of a gram between a pair's gathered tokens that are computed at a time."""

GROUPED_PRODUCT: Any = getattr(torch, "_grouped_mm", None)
"""What `torch.nn.functional.grouped_mm` calls: inputs [G, I], weight [X, I, O] and the end of each expert's tokens."""


@dataclass(frozen=True, slots=True)
class ExpertTokens:
    """The G tokens that a layer's experts compute."""

    rows_G: Tensor
    """int64: batch row of each token."""
    experts_G: Tensor
    """int64: its expert."""
    order_PM: Tensor
    """int64: the tokens of each pair, as indices into G, sorted by expert."""
    ends: HostCopy
    """`tiles`: per tile of M, where the last run of tokens with one expert ends that starts in the tile."""

    @classmethod
    def sort(cls, rows_G: Tensor, experts_G: Tensor, num_rows: int) -> ExpertTokens:
        """Sort the tokens of a batch.

        Args:
            rows_G: every row occurs equally often.
            num_rows: B.
        """
        num_pairs = num_rows // 2
        num_experts = 2**20  # more than any model has
        key_G = rows_G % num_pairs * num_experts + experts_G
        order_PM = key_G.argsort(stable=True).view(num_pairs, -1)
        key_PM = key_G[order_PM]
        size = key_PM.shape[1]
        run_ends_M = torch.searchsorted(key_PM, key_PM, right=True).amax(0)
        tile_ends = nn.functional.pad(run_ends_M, (0, -size % TILE)).view(-1, TILE).amax(1)
        return cls(rows_G, experts_G, order_PM, HostCopy({"tiles": tile_ends}, bound=size))


def expert_tokens(rows_G: Tensor, ends_X: Tensor, num_rows: int) -> ExpertTokens:
    """The tokens of a grouped product.

    Args:
        rows_G: batch row of each token.
        ends_X: end of each expert's tokens within G.
    """
    within_G = torch.arange(rows_G.numel(), device=rows_G.device)
    experts_G = torch.searchsorted(ends_X.to(torch.long), within_G, right=True)
    return ExpertTokens.sort(rows_G, experts_G, num_rows)


def expert_products(inputs_GI: Tensor, gradient_GO: Tensor, tokens: ExpertTokens) -> Tensor:
    """Products [3, P] of the gradients of a layer's expert weights, for all experts together.

    <G_a, G_b> = sum over experts, and over tokens t of a and u of b with this expert, of (x_t . x_u) (q_t . q_u). With
    a pair's tokens sorted by expert, these entries are in runs along the diagonal. Tiles cover the runs from the
    diagonal to the right, and entries of other experts in a tile are dropped.

    Precision: grams in float32 (float64 for float64), sums over their rows in float64.
    Cost: per pair, 2 M (I + O) flops times `TILE` plus the length of a run; memory of P * `TILE` * M.
    """
    inputs_PMI, gradient_PMO = inputs_GI[tokens.order_PM], gradient_GO[tokens.order_PM]
    experts_PM = tokens.experts_G[tokens.order_PM]
    num_pairs, size = experts_PM.shape
    is_rejected_PM = tokens.rows_G[tokens.order_PM] >= num_pairs
    accumulated = torch.float64 if inputs_GI.dtype == torch.float64 else torch.float32
    sides_PM2 = torch.stack([~is_rejected_PM, is_rejected_PM], dim=2).to(accumulated)
    totals_P22 = torch.zeros(num_pairs, 2, 2, dtype=torch.float64, device=inputs_GI.device)
    ends = tokens.ends.read()["tiles"].tolist()
    for start, end in zip(range(0, size, TILE), ends, strict=True):
        rows, columns = slice(start, start + TILE), slice(start, end)
        weighted = wide_product(gradient_PMO[:, rows], gradient_PMO[:, columns].mT)
        weighted *= wide_product(inputs_PMI[:, rows], inputs_PMI[:, columns].mT)
        weighted.masked_fill_(experts_PM[:, rows].unsqueeze(2) != experts_PM[:, columns].unsqueeze(1), 0.0)
        weighted[:, :, TILE:] *= 2.0
        by_side = (weighted @ sides_PM2[:, columns]).double()
        totals_P22 += sides_PM2[:, rows].mT.double() @ by_side
    chosen_P2, rejected_P2 = totals_P22.unbind(1)
    # Entries to the right of a tile stand for their mirror image too, so the two mixed sums share both.
    mixed_P = (chosen_P2[:, 1] + rejected_P2[:, 0]) / 2
    return torch.stack([chosen_P2[:, 0], rejected_P2[:, 1], mixed_P])


def grouped_product(inputs_GI: Tensor, weight_XIO: Tensor, ends_X: Tensor) -> Tensor:
    """Every token times its expert's weight, [G, O]. No gradient for the weight.

    torch's own kernels have no float64, and on a GPU only bfloat16. Other dtypes run expert by expert.
    """
    has_kernel = inputs_GI.dtype == weight_XIO.dtype == torch.bfloat16 and not inputs_GI.is_cpu
    if has_kernel:
        result: Tensor = GROUPED_PRODUCT(inputs_GI, weight_XIO, offs=ends_X)
        return result
    outputs_GO: Tensor = _ExpertByExpert.apply(inputs_GI, weight_XIO, ends_X.tolist())  # type: ignore[no-untyped-call]
    return outputs_GO


class _ExpertByExpert(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs_GI: Tensor, weight_XIO: Tensor, ends: list[int]) -> Tensor:
        ctx.save_for_backward(weight_XIO)
        ctx.ends = ends
        return _each_expert(inputs_GI, weight_XIO, ends)

    @staticmethod
    def backward(ctx: Any, gradient_GO: Tensor) -> tuple[Tensor, None, None]:
        (weight_XIO,) = ctx.saved_tensors
        return _each_expert(gradient_GO, weight_XIO.mT, ctx.ends), None, None


def _each_expert(inputs_GI: Tensor, weight_XIO: Tensor, ends: list[int]) -> Tensor:
    outputs_GO = inputs_GI.new_zeros(inputs_GI.shape[0], weight_XIO.shape[2])
    start = 0
    for expert, end in enumerate(ends):
        if end > start:
            torch.mm(inputs_GI[start:end], weight_XIO[expert], out=outputs_GO[start:end])
        start = end
    return outputs_GO


@contextmanager
def grouped_experts(model: nn.Module) -> Iterator[None]:
    """Make mixture-of-experts layers compute all experts in one call inside the block, if transformers can."""
    any_model: Any = model
    if not hasattr(model, "set_experts_implementation") or not _is_supported(next(model.parameters()).device):
        yield
        return
    before = any_model.get_experts_implementation()
    try:
        any_model.set_experts_implementation("grouped_mm")
    except ValueError:
        # The model has experts of its own, or none.
        yield
        return
    try:
        yield
    finally:
        any_model.set_experts_implementation(before)


def _is_supported(device: torch.device) -> bool:
    if not hasattr(nn.functional, "grouped_mm"):
        return False
    # transformers falls back to a function of its own on older GPUs.
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
