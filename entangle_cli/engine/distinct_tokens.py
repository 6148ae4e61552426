"""Linear layers that compute each distinct token once. They skip padding and the second copy of a shared prompt.

Both rows of a pair start with the same tokens. In a causal model, their activations are equal there too. A linear
layer therefore computes them for the chosen row and copies the outputs to the rejected row. Gradients differ between
the rows, so the backward pass runs for every real token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entangle_cli.engine.costs import copy_flops


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Source of a linear layer's output for every position of a batch, as indices into its F positions."""

    computed_E: Tensor
    """int64: positions to compute."""
    source_F: Tensor
    """int64: index into `computed_E` for every position; arbitrary for padding."""
    real_L: Tensor
    """int64: positions that are not padding."""

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], shared: Sequence[int], num_tokens: int) -> TokenLayout:
        """The layout of a batch.

        Args:
            lengths: tokens per row, chosen rows first.
            shared: shared leading tokens per pair.
            num_tokens: T.
        """
        num_pairs = len(shared)
        positions_BT = torch.arange(len(lengths) * num_tokens).view(-1, num_tokens)
        within_T = torch.arange(num_tokens)
        is_real_BT = within_T < torch.tensor(lengths).unsqueeze(1)
        is_copy_BT = torch.zeros_like(is_real_BT)
        is_copy_BT[num_pairs:] = within_T < torch.tensor(shared).unsqueeze(1)
        computed_E = positions_BT[is_real_BT & ~is_copy_BT]
        index_F = torch.zeros(positions_BT.numel(), dtype=torch.long)
        index_F[computed_E] = torch.arange(computed_E.numel())
        source_BT = index_F.view_as(positions_BT).clone()
        source_BT[num_pairs:][is_copy_BT[num_pairs:]] = source_BT[:num_pairs][is_copy_BT[num_pairs:]]
        return cls(computed_E, source_BT.reshape(-1), positions_BT[is_real_BT])

    def to(self, device: torch.device) -> TokenLayout:
        """The same layout on a device."""
        return TokenLayout(*(to_device(part, device) for part in (self.computed_E, self.source_F, self.real_L)))

    def saves_time(self, weight_IO: Tensor) -> bool:
        """Whether skipping positions in a linear layer saves more than the copies cost."""
        num_inputs, num_outputs = weight_IO.shape
        num_positions, num_computed = self.source_F.numel(), self.computed_E.numel()
        saved = 2 * (num_positions - num_computed) * num_inputs * num_outputs
        copied = copy_flops(weight_IO.device, weight_IO.dtype)
        return saved > copied * (num_computed * num_inputs + num_positions * num_outputs)

    def skips_padding(self, weight_IO: Tensor) -> bool:
        """Whether skipping padding in a linear layer's backward pass saves more than the copies cost."""
        num_inputs, num_outputs = weight_IO.shape
        num_positions, num_real = self.source_F.numel(), self.real_L.numel()
        saved = 2 * (num_positions - num_real) * num_inputs * num_outputs
        copied = copy_flops(weight_IO.device, weight_IO.dtype)
        return saved > copied * (num_real * num_outputs + num_positions * num_inputs)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to a device. Copies to CUDA use pinned memory, so the host need not wait."""
    return (
        values.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda" and values.is_cpu
        else values.to(device)
    )


def linear_on_distinct_tokens(inputs: Tensor, weight_IO: Tensor, bias_O: Tensor | None, layout: TokenLayout) -> Tensor:
    """y = x W + b for every position of a batch, computed once per distinct token.

    Args:
        inputs: [B, T, I] or [F, I]. The rows of a pair must agree at shared positions.
        weight_IO: gets no gradient, and neither does `bias_O`.
    Returns:
        Outputs [B, T, O] or [F, O]. Padding gets the output of an arbitrary position. The gradient at the inputs equals
        that of the plain layer, with separate values per row at shared positions.
    """
    inputs_FI = inputs.reshape(-1, inputs.shape[-1])
    # Reshape outside the function: models change results in place, and torch forbids that for views made inside.
    outputs_FO: Tensor = _DistinctLinear.apply(inputs_FI, weight_IO, bias_O, layout)  # type: ignore[no-untyped-call]
    return outputs_FO.reshape(*inputs.shape[:-1], -1)


class _DistinctLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs_FI: Tensor, weight_IO: Tensor, bias_O: Tensor | None, layout: TokenLayout) -> Tensor:
        ctx.save_for_backward(weight_IO)
        ctx.layout = layout
        inputs_EI = inputs_FI.index_select(0, layout.computed_E)
        outputs_EO = inputs_EI @ weight_IO if bias_O is None else torch.addmm(bias_O, inputs_EI, weight_IO)
        return outputs_EO.index_select(0, layout.source_F)

    @staticmethod
    def backward(ctx: Any, gradient_FO: Tensor) -> tuple[Tensor, None, None, None]:
        (weight_IO,) = ctx.saved_tensors
        if not ctx.layout.skips_padding(weight_IO):
            return gradient_FO @ weight_IO.T, None, None, None
        real_L = ctx.layout.real_L
        result_FI = gradient_FO.new_zeros(gradient_FO.shape[0], weight_IO.shape[0])
        result_FI[real_L] = gradient_FO.index_select(0, real_L) @ weight_IO.T
        return result_FI, None, None, None
