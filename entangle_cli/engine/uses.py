"""The recorder's reports: one use of a parameter in a forward pass, with the factors of its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from entangle_cli.engine.expert_tokens import ExpertTokens


class UseKind(StrEnum):
    """How a parameter enters the computation. This determines the formula for its gradient."""

    LINEAR = "linear"
    """y = x W or x W': the gradient is a sum of outer products of inputs and output gradients."""
    ROUTED = "routed"
    """A linear layer on tokens gathered from anywhere in the batch, such as an expert: the same sum over its tokens."""
    GROUPED = "grouped"
    """All experts of a layer [X, I, O] on tokens sorted by expert: the same sum over each expert's tokens."""
    LOOKUP = "lookup"
    """y = W[ids]."""
    VECTOR = "vector"
    """A broadcast scale or bias: the gradient is a sum of (factor times) output gradients."""
    UNEMBEDDING = "unembedding"
    """The last linear layer, which `head_sweep` evaluates in chunks."""


@dataclass(slots=True, eq=False)
class LinearInput:
    """The input of one or more linear layers."""

    values_BTI: Tensor
    """Detached, with all positions of a row in one dimension."""
    num_readers: int = 0
    """Number of watched weights that read it."""


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """One use of a parameter in the forward pass."""

    name: str
    kind: UseKind
    shape: torch.Size
    left: LinearInput | Tensor | Callable[[], Tensor] | None
    """LINEAR: the inputs, one object shared by all weights that read them. ROUTED, GROUPED: inputs [G, I].
    LOOKUP: ids [B, T].
    VECTOR: the factor that a scale multiplies [B, ...], or a function that returns it; None for a bias."""
    has_batch_positions: bool = True
    """LINEAR: whether dimension 1 of `left` is the batch's T positions. Only then do a pair's rows share a prefix."""
    constant_id: int | None = None
    """LOOKUP: the id whose table row gets no gradient (`padding_idx`)."""
    rows: Tensor | None = None
    """ROUTED, and VECTOR on gathered tokens: the batch row of each of the G tokens."""
    entries: Tensor | None = None
    """VECTOR on gathered tokens: the entry of the parameter's first dimension that each of the G tokens uses."""
    tokens: ExpertTokens | None = None
    """GROUPED: the tokens, one object shared by all weights of a layer."""
    slice_index: int | None = None
    """Index of the slice in use, such as an expert's; None for the whole parameter."""
    outputs_first: bool = False
    """LINEAR, ROUTED: the parameter is [O, I] rather than [I, O]."""

    @property
    def form(self) -> tuple[Any, ...]:
        """Two uses must have the same form before their factors can be concatenated."""
        is_matrix = self.kind in {UseKind.LINEAR, UseKind.ROUTED}
        return (self.kind, self.shape, self.outputs_first) if is_matrix else (self.kind,)

    @property
    def key(self) -> tuple[str, int | None]:
        """Identifies a gradient: parameter name and slice index."""
        return self.name, self.slice_index


Consume = Callable[[Use, Tensor], None]
