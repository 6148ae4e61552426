"""The scored positions of a batch, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from entangle_cli.engine.distinct_tokens import to_device


@dataclass(frozen=True, slots=True)
class Scored:
    """Where each row's scored positions are within N, chosen rows first."""

    slices: tuple[slice, ...]
    """Range of each row."""
    index_BR: Tensor
    """int64: indices into N, padded to the longest response with -1."""

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device) -> Scored:
        """Rows one after another.

        Args:
            lengths: number of scored positions per row.
        """
        ends = list(accumulate(lengths, initial=0))
        within_R = torch.arange(max(lengths))
        index_BR = torch.where(
            within_R < torch.tensor(lengths).unsqueeze(1), torch.tensor(ends[:-1]).unsqueeze(1) + within_R, -1
        )
        return cls(tuple(slice(start, end) for start, end in pairwise(ends)), to_device(index_BR, device))

    @property
    def pairs(self) -> list[tuple[slice, slice]]:
        """Ranges of the chosen and the rejected row, per pair."""
        num_pairs = len(self.slices) // 2
        return list(zip(self.slices[:num_pairs], self.slices[num_pairs:], strict=True))

    def row_sums(self, values_N: Tensor) -> Tensor:
        """Sum of values [N] or [N, D] over each row's positions, float64 [B] or [B, D]."""
        is_padding = (self.index_BR < 0).view(*self.index_BR.shape, *(1,) * (values_N.dim() - 1))
        return values_N[self.index_BR.clamp(min=0)].masked_fill(is_padding, 0.0).sum(1, dtype=torch.float64)
