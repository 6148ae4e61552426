"""What a recorder reports: one use of a parameter in a forward pass, and what its gradient is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor


class UseKind(StrEnum):
    """How a parameter enters the computation, and so which product its gradient needs."""

    LINEAR = "linear"
    """y = x W or x W': the gradient is a sum of outer products of inputs and output gradients."""
    ROUTED = "routed"
    """A linear layer on tokens gathered from anywhere in the batch, as an expert's: the same sum over its tokens."""
    LOOKUP = "lookup"
    """y = W[ids]."""
    VECTOR = "vector"
    """A broadcast scale or bias: the gradient is a sum of (factor times) output gradients."""
    UNEMBEDDING = "unembedding"
    """The last linear layer, which `head_sweep` evaluates in chunks."""


@dataclass(slots=True, eq=False)
class LinearInput:
    """What one or more linear layers read."""

    values_BTI: Tensor
    """Detached, all positions of a row in one dimension."""
    num_readers: int = 0
    """Watched weights that read it."""


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """One use of a parameter in the forward pass."""

    name: str
    kind: UseKind
    shape: torch.Size
    left: LinearInput | Tensor | Callable[[], Tensor] | None
    """LINEAR: the inputs, one object for all weights that read them. ROUTED: inputs [G, I]. LOOKUP: ids [B, T].
    VECTOR: the factor that a scale multiplies [B, ...], or a function that gives it; None for a bias."""
    has_batch_positions: bool = True
    """LINEAR: whether dimension 1 of `left` is the batch's T positions: then the rows of a pair share their prefix."""
    constant_id: int | None = None
    """LOOKUP: the id whose row takes no gradient (`padding_idx`)."""
    rows: Tensor | None = None
    """ROUTED, and VECTOR beside it: the batch row of each of the G gathered tokens."""
    slice_index: int | None = None
    """Index of the slice of the parameter that is used, an expert's; None for the whole parameter."""
    outputs_first: bool = False
    """LINEAR, ROUTED: the parameter is [O, I] rather than [I, O]."""

    @property
    def form(self) -> tuple[Any, ...]:
        """What must agree between two uses for their factors to be put side by side."""
        is_matrix = self.kind in {UseKind.LINEAR, UseKind.ROUTED}
        return (self.kind, self.shape, self.outputs_first) if is_matrix else (self.kind,)

    @property
    def key(self) -> tuple[str, int | None]:
        """What has one gradient: the parameter, or a slice of it."""
        return self.name, self.slice_index


Consume = Callable[[Use, Tensor], None]
