"""Calls replaced by an equivalent computation with the same result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from entangle_cli.engine.calls import BatchShape, Call
from entangle_cli.engine.distinct_tokens import TokenLayout, linear_on_distinct_tokens
from entangle_cli.engine.expert_tokens import GROUPED_PRODUCT, grouped_product
from entangle_cli.engine.gathered_rows import GatheredRows
from entangle_cli.engine.uses import Use, UseKind


class ReplacedCalls:
    """Runs the calls for one batch, some of them in a cheaper way.

    Args:
        shape: shape of the batch's ids.
        gathered: identifies tensors that are not in batch order.
        layout: lets linear layers skip padding and the second copy of shared prompts.
    """

    def __init__(self, shape: BatchShape, gathered: GatheredRows, layout: TokenLayout) -> None:
        self._shape = shape
        self._gathered = gathered
        # One per device, for models spread over several devices.
        self._layouts = {layout.computed_E.device: layout}

    def result(self, call: Call, uses: Sequence[Use] = ()) -> Any:
        """The result of a call.

        Args:
            uses: the recognised uses of parameters in the call.
        """
        if uses and uses[0].kind is UseKind.LOOKUP:
            # Look up shared ids once per row to keep the rows' gradients separate.
            return call.func(uses[0].left, call.argument(1, "weight"))
        if call.func is GROUPED_PRODUCT and not call.args[1].requires_grad:
            inputs, weight_XIO = call.args
            return grouped_product(inputs, weight_XIO, call.kwargs["offs"])
        if call.kwargs or not (call.func is F.linear or (call.func is torch.addmm and len(call.args) == 3)):
            return call.run()
        if call.func is F.linear:
            inputs, weight, *rest = call.args
            weight_IO, bias = weight.T, rest[0] if rest else None
        else:
            bias, inputs, weight_IO = call.args
        if weight_IO.requires_grad or (bias is not None and bias.requires_grad) or not self._has_batch_order(inputs):
            return call.run()
        layout = self._layout(inputs.device)
        if not layout.saves_time(weight_IO):
            return call.run()
        return linear_on_distinct_tokens(inputs, weight_IO, bias, layout)

    def _has_batch_order(self, values: Tensor) -> bool:
        is_gathered = values.dim() == 2 and self._gathered.rows_of(values) is not None
        return self._shape.is_by_position(values) and not is_gathered

    def _layout(self, device: torch.device) -> TokenLayout:
        if device not in self._layouts:
            self._layouts[device] = next(iter(self._layouts.values())).to(device)
        return self._layouts[device]
