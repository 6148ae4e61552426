"""Each token's linear layers once: not again for the rejected row's shared prompt, and not for padding.

Both rows of a pair start with the same tokens, and in a causal model with the same activations at them. A linear
layer therefore need not be computed again there: its outputs are copied from the chosen row. Gradients
differ between the rows, so that the backward pass runs for every real token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

COPY_FLOPS = 48
"""What copying one float costs, in flops of a matrix product. On one CPU core 10 to 20 where the copy stays in cache,
over 200 where it needs fresh memory (tests/benchmarks/routes.py)."""


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Where the positions of a batch get a linear layer's outputs from; indices into its B * T positions."""

    computed_U: Tensor
    """int64: positions that are computed."""
    source_N: Tensor
    """int64 [B * T]: for each position its place in `computed_U`; any place for padding."""
    real_M: Tensor
    """int64: positions that are not padding."""

    @classmethod
    def of(cls, lengths: Sequence[int], shared: Sequence[int], num_tokens: int) -> TokenLayout:
        """The layout of a batch.

        Args:
            lengths: tokens of each row, chosen rows first.
            shared: per pair, leading tokens that its two rows share.
            num_tokens: T.
        """
        num_pairs = len(shared)
        positions_BT = torch.arange(len(lengths) * num_tokens).view(-1, num_tokens)
        within_T = torch.arange(num_tokens)
        is_real_BT = within_T < torch.tensor(lengths).unsqueeze(1)
        is_copy_BT = torch.zeros_like(is_real_BT)
        is_copy_BT[num_pairs:] = within_T < torch.tensor(shared).unsqueeze(1)
        computed_U = positions_BT[is_real_BT & ~is_copy_BT]
        place_N = torch.zeros(positions_BT.numel(), dtype=torch.long)
        place_N[computed_U] = torch.arange(computed_U.numel())
        source_BT = place_N.view_as(positions_BT).clone()
        source_BT[num_pairs:][is_copy_BT[num_pairs:]] = source_BT[:num_pairs][is_copy_BT[num_pairs:]]
        return cls(computed_U, source_BT.reshape(-1), positions_BT[is_real_BT])

    def to(self, device: torch.device) -> TokenLayout:
        """The same layout on a device."""
        return TokenLayout(*(to_device(part, device) for part in (self.computed_U, self.source_N, self.real_M)))

    def pays(self, num_inputs: int, num_outputs: int) -> bool:
        """Whether computing only what is needed saves more than the copies cost."""
        num_positions, num_computed = self.source_N.numel(), self.computed_U.numel()
        saved = 2 * (num_positions - num_computed) * num_inputs * num_outputs
        return saved > COPY_FLOPS * (num_computed * num_inputs + num_positions * num_outputs)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A copy on a device; to CUDA from pinned memory, so that the host does not wait for it."""
    return (
        values.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda" and values.is_cpu
        else values.to(device)
    )


def linear_once(inputs: Tensor, weight_IO: Tensor, bias_O: Tensor | None, layout: TokenLayout) -> Tensor:
    """y = x W + b for every position of a batch, computed once a token.

    Args:
        inputs: [B, T, I] or [B * T, I]; the rows of a pair agree at the positions they share.
        weight_IO: takes no gradient, like `bias_O`.
    Returns:
        Outputs, shaped alike; padding gets those of some other position. The gradient at the inputs is that of the
        plain layer: at shared positions each row's own.
    """
    inputs_NI = inputs.reshape(-1, inputs.shape[-1])
    # Shaped outside the function: models change results in place, which torch forbids for views made inside.
    outputs_NO: Tensor = _LinearOnce.apply(inputs_NI, weight_IO, bias_O, layout)  # type: ignore[no-untyped-call]
    return outputs_NO.reshape(*inputs.shape[:-1], -1)


class _LinearOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs_NI: Tensor, weight_IO: Tensor, bias_O: Tensor | None, layout: TokenLayout) -> Tensor:
        ctx.save_for_backward(weight_IO)
        ctx.layout = layout
        inputs_UI = inputs_NI.index_select(0, layout.computed_U)
        outputs_UO = inputs_UI @ weight_IO if bias_O is None else torch.addmm(bias_O, inputs_UI, weight_IO)
        return outputs_UO.index_select(0, layout.source_N)

    @staticmethod
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Tensor, None, None, None]:
        (weight_IO,) = ctx.saved_tensors
        real_M = ctx.layout.real_M
        if real_M.numel() == gradient_NO.shape[0]:
            return gradient_NO @ weight_IO.T, None, None, None
        result_NI = gradient_NO.new_zeros(gradient_NO.shape[0], weight_IO.shape[0])
        result_NI[real_M] = gradient_NO.index_select(0, real_M) @ weight_IO.T
        return result_NI, None, None, None
