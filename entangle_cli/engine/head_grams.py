"""Grams over the vocabulary between the scored positions of a pair, summed chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from entangle_cli.engine.device_products import wide_product
from entangle_cli.engine.products import chosen_and_rejected
from entangle_cli.engine.scored import Scored

SYMMETRIC_TILE = 64
"""Rows per tile of a symmetric gram: small enough to skip most of its lower half."""

PADDED_BYTES = 2**30
"""Bytes of a padded chunk in float32. One long response among short ones pads a chunk to many times its size."""


@dataclass(frozen=True, slots=True)
class PairGroup:
    """Scored positions of some pairs of a batch, as indices into N. -1 marks padding."""

    pairs: slice
    """The group's pairs within the batch."""
    chosen_PR: Tensor
    """int64."""
    rejected_PR: Tensor
    """int64; R may differ from that of `chosen_PR`."""


@dataclass(frozen=True, slots=True)
class PairGrams:
    """Grams over the vocabulary between positions of each pair: of exp(logit - maximum) times slope, zero at targets.

    Entries of padding are arbitrary but finite.
    """

    group: PairGroup
    chosen_PRR: Tensor
    rejected_PRR: Tensor
    mixed_PRR: Tensor
    """Chosen x rejected."""


class HeadGrams(Protocol):
    """The grams of a batch, while a sweep adds to them."""

    def rescale(self, factor_N: Tensor) -> None:
        """Multiply every position by a factor."""

    def add(self, exp_NC: Tensor, rounded_NC: Tensor) -> None:
        """Add the inner products over a chunk of columns.

        Args:
            rounded_NC: `exp_NC` in the model's dtype.
        """

    def finished(self) -> list[PairGrams]:
        """The grams of all pairs, in one or more groups."""


def start_grams(values_ND: Tensor, scored: Scored | None) -> HeadGrams:
    """Grams of zeros, with the device and dtype of `values_ND`.

    Args:
        scored: the rows of the scored positions; None for no grams.
    """
    return GramsByPair(values_ND, scored) if scored is None or values_ND.is_cpu else GramsAtOnce(values_ND, scored)


class GramsByPair:
    """One pair at a time, and half of a symmetric gram: the fewest flops."""

    def __init__(self, values_ND: Tensor, scored: Scored | None) -> None:
        def zeros(rows: slice, columns: slice) -> Tensor:
            return values_ND.new_zeros(rows.stop - rows.start, columns.stop - columns.start)

        self._slices = [] if scored is None else scored.pairs
        self._chosen = [zeros(chosen, chosen) for chosen, _ in self._slices]
        self._rejected = [zeros(rejected, rejected) for _, rejected in self._slices]
        self._mixed = [zeros(chosen, rejected) for chosen, rejected in self._slices]

    def rescale(self, factor_N: Tensor) -> None:
        """Multiply every position by a factor."""
        for pair, (chosen, rejected) in enumerate(self._slices):
            self._chosen[pair].mul_(torch.outer(factor_N[chosen], factor_N[chosen]))
            self._rejected[pair].mul_(torch.outer(factor_N[rejected], factor_N[rejected]))
            self._mixed[pair].mul_(torch.outer(factor_N[chosen], factor_N[rejected]))

    def add(self, exp_NC: Tensor, rounded_NC: Tensor) -> None:  # noqa: ARG002 -- a CPU gains nothing from rounding
        """Add the inner products over a chunk of columns."""
        for pair, (chosen, rejected) in enumerate(self._slices):
            _add_upper_half(self._chosen[pair], exp_NC[chosen])
            _add_upper_half(self._rejected[pair], exp_NC[rejected])
            self._mixed[pair].addmm_(exp_NC[chosen], exp_NC[rejected].T)

    def finished(self) -> list[PairGrams]:
        """One group per pair."""
        return [
            PairGrams(
                PairGroup(slice(pair, pair + 1), _range(chosen), _range(rejected)),
                _mirror(self._chosen[pair]).unsqueeze(0),
                _mirror(self._rejected[pair]).unsqueeze(0),
                self._mixed[pair].unsqueeze(0),
            )
            for pair, (chosen, rejected) in enumerate(self._slices)
        ]


class GramsAtOnce:
    """All pairs at once, padded to R positions of the longest response: the fewest launches."""

    def __init__(self, values_ND: Tensor, scored: Scored) -> None:
        self._index_BR = scored.index_BR
        # Padding repeats position 0. Its gradient is set to zero later, so its entries do not matter.
        self._filled_BR = scored.index_BR.clamp(min=0)
        num_rows, longest = scored.index_BR.shape
        self._same_BRR = values_ND.new_zeros(num_rows, longest, longest)
        self._mixed_PRR = values_ND.new_zeros(num_rows // 2, longest, longest)

    def rescale(self, factor_N: Tensor) -> None:
        """Multiply every position by a factor."""
        factor_BR = factor_N[self._filled_BR]
        chosen_PR, rejected_PR = chosen_and_rejected(factor_BR)
        self._same_BRR.mul_(factor_BR.unsqueeze(2) * factor_BR.unsqueeze(1))
        self._mixed_PRR.mul_(chosen_PR.unsqueeze(2) * rejected_PR.unsqueeze(1))

    def add(self, exp_NC: Tensor, rounded_NC: Tensor) -> None:
        """Add the inner products over a chunk of columns.

        bfloat16 has the range of float32, so its rounding is relative to every entry. The pull on the hidden states
        comes from the same rounded entries. float16 would lose small probabilities.
        """
        values_NC = rounded_NC if rounded_NC.dtype == torch.bfloat16 else exp_NC
        for part_Nc in values_NC.split(max(1, PADDED_BYTES // (4 * self._filled_BR.numel())), dim=1):
            values_BRc = part_Nc[self._filled_BR]
            chosen_PRc, rejected_PRc = chosen_and_rejected(values_BRc)
            self._same_BRR += wide_product(values_BRc, values_BRc.mT)
            self._mixed_PRR += wide_product(chosen_PRc, rejected_PRc.mT)

    def finished(self) -> list[PairGrams]:
        """One group for all pairs."""
        chosen_PR, rejected_PR = chosen_and_rejected(self._index_BR)
        group = PairGroup(slice(0, len(chosen_PR)), chosen_PR, rejected_PR)
        return [PairGrams(group, *chosen_and_rejected(self._same_BRR), self._mixed_PRR)]


def _range(rows: slice) -> Tensor:
    """The indices of a range, [1, R]."""
    return torch.arange(rows.start, rows.stop).unsqueeze(0)


def _add_upper_half(gram_RR: Tensor, rows_RC: Tensor) -> None:
    """Add the inner products of the rows. Entries above and on the diagonal are complete, those below only partly."""
    for start in range(0, rows_RC.shape[0], SYMMETRIC_TILE):
        tile_rC = rows_RC[start : start + SYMMETRIC_TILE]
        gram_RR[start : start + SYMMETRIC_TILE, start:].addmm_(tile_rC, rows_RC[start:].T)


def _mirror(gram_RR: Tensor) -> Tensor:
    """Copy the upper half of a symmetric matrix to its lower half, in place."""
    gram_RR.triu_()
    gram_RR += gram_RR.triu(1).T
    return gram_RR
