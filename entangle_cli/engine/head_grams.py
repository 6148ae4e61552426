"""Grams over the vocabulary between the scored positions of a pair, summed chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from entangle_cli.engine.distinct_tokens import to_device
from entangle_cli.engine.products import chosen_and_rejected

SYMMETRIC_TILE = 64
"""Rows per tile of a symmetric gram: small enough to skip most of its lower half."""

PADDED_BYTES = 2**30
"""Bytes of a padded chunk in float32. One long response among short ones pads a chunk to many times its size."""


@dataclass(frozen=True, slots=True)
class PairGrams:
    """Grams over the vocabulary between a pair's positions: of exp(logit - maximum) times slope, zero at targets."""

    chosen_RR: Tensor
    """Between positions of the chosen row; valid on and above the diagonal."""
    rejected_RR: Tensor
    """Between positions of the rejected row; valid on and above the diagonal."""
    mixed_RR: Tensor
    """Chosen x rejected."""


class HeadGrams(Protocol):
    """The grams of a batch, while a sweep adds to them."""

    @property
    def pairs(self) -> Sequence[PairGrams]:
        """The grams of each pair."""

    def rescale(self, factor_N: Tensor) -> None:
        """Multiply every position by a factor."""

    def add(self, exp_NC: Tensor) -> None:
        """Add the inner products over a chunk of columns."""


def start_grams(values_ND: Tensor, slices: Sequence[slice]) -> HeadGrams:
    """Grams of zeros, with the device and dtype of `values_ND`.

    Args:
        slices: per row (chosen rows first), its range within N. Empty for no grams.
    """
    if values_ND.is_cpu or not slices:
        return GramsByPair(values_ND, slices)
    return GramsAtOnce(values_ND, slices)


def chosen_and_rejected_slices(slices: Sequence[slice]) -> list[tuple[slice, slice]]:
    """Ranges within N of the chosen and the rejected row, per pair. `slices` has the chosen rows first."""
    num_pairs = len(slices) // 2
    return list(zip(slices[:num_pairs], slices[num_pairs:], strict=True))


class GramsByPair:
    """One pair at a time, and half of a symmetric gram: the fewest flops."""

    def __init__(self, values_ND: Tensor, slices: Sequence[slice]) -> None:
        def zeros(rows: slice, columns: slice) -> Tensor:
            return values_ND.new_zeros(rows.stop - rows.start, columns.stop - columns.start)

        self._slices = chosen_and_rejected_slices(slices)
        self.pairs = [
            PairGrams(zeros(chosen, chosen), zeros(rejected, rejected), zeros(chosen, rejected))
            for chosen, rejected in self._slices
        ]

    def rescale(self, factor_N: Tensor) -> None:
        """Multiply every position by a factor."""
        for (chosen, rejected), grams in zip(self._slices, self.pairs, strict=True):
            grams.chosen_RR.mul_(torch.outer(factor_N[chosen], factor_N[chosen]))
            grams.rejected_RR.mul_(torch.outer(factor_N[rejected], factor_N[rejected]))
            grams.mixed_RR.mul_(torch.outer(factor_N[chosen], factor_N[rejected]))

    def add(self, exp_NC: Tensor) -> None:
        """Add the inner products over a chunk of columns."""
        for (chosen, rejected), grams in zip(self._slices, self.pairs, strict=True):
            _add_upper_half(grams.chosen_RR, exp_NC[chosen])
            _add_upper_half(grams.rejected_RR, exp_NC[rejected])
            grams.mixed_RR.addmm_(exp_NC[chosen], exp_NC[rejected].T)


class GramsAtOnce:
    """All pairs at once, padded to R positions of the longest response: the fewest launches."""

    def __init__(self, values_ND: Tensor, slices: Sequence[slice]) -> None:
        lengths = [rows.stop - rows.start for rows in slices]
        # Padding repeats position 0. No pair's grams reach it.
        positions_BR = torch.zeros(len(slices), max(lengths), dtype=torch.long)
        for row, rows in enumerate(slices):
            positions_BR[row, : lengths[row]] = torch.arange(rows.start, rows.stop)
        self._positions_BR = to_device(positions_BR, values_ND.device)
        num_pairs = len(slices) // 2
        self._same_BRR = values_ND.new_zeros(len(slices), max(lengths), max(lengths))
        self._mixed_PRR = values_ND.new_zeros(num_pairs, max(lengths), max(lengths))
        self.pairs = [
            PairGrams(
                self._same_BRR[pair, :chosen, :chosen],
                self._same_BRR[pair + num_pairs, :rejected, :rejected],
                self._mixed_PRR[pair, :chosen, :rejected],
            )
            for pair, (chosen, rejected) in enumerate(zip(lengths[:num_pairs], lengths[num_pairs:], strict=True))
        ]

    def rescale(self, factor_N: Tensor) -> None:
        """Multiply every position by a factor."""
        factor_BR = factor_N[self._positions_BR]
        chosen_PR, rejected_PR = chosen_and_rejected(factor_BR)
        self._same_BRR.mul_(factor_BR.unsqueeze(2) * factor_BR.unsqueeze(1))
        self._mixed_PRR.mul_(chosen_PR.unsqueeze(2) * rejected_PR.unsqueeze(1))

    def add(self, exp_NC: Tensor) -> None:
        """Add the inner products over a chunk of columns."""
        for part_Nc in exp_NC.split(max(1, PADDED_BYTES // (4 * self._positions_BR.numel())), dim=1):
            exp_BRc = part_Nc[self._positions_BR]
            chosen_PRc, rejected_PRc = chosen_and_rejected(exp_BRc)
            self._same_BRR.baddbmm_(exp_BRc, exp_BRc.mT)
            self._mixed_PRR.baddbmm_(chosen_PRc, rejected_PRc.mT)


def _add_upper_half(gram_RR: Tensor, rows_RC: Tensor) -> None:
    """Add the inner products of the rows. Entries above and on the diagonal are complete, those below only partly."""
    for start in range(0, rows_RC.shape[0], SYMMETRIC_TILE):
        tile_rC = rows_RC[start : start + SYMMETRIC_TILE]
        gram_RR[start : start + SYMMETRIC_TILE, start:].addmm_(tile_rC, rows_RC[start:].T)
