"""Batches: grouping pairs, and laying out their rows as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entangle_cli.engine.distinct_tokens import TokenLayout, to_device
from entangle_cli.engine.scored import Scored
from entangle_cli.records.measurement import TokenizedPair


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded rows of several pairs, and their scored positions.

    A row omits the last token of its sequence. No scored token follows it, so it affects no log-prob or gradient.
    Right padding needs no attention mask in a causal model: real positions never attend to it, and no gradient
    reaches it.
    """

    ids_BT: Tensor
    """int64, chosen rows first; 0 on padding."""
    rows_N: Tensor
    """int64: row of each scored position."""
    positions_N: Tensor
    """int64: position whose output predicts the scored token."""
    targets_N: Tensor
    """int64: id of the scored token."""
    scored: Scored
    """Which of the N scored positions belong to each row."""
    layout: TokenLayout
    """The positions that a linear layer must compute."""
    num_shared: int
    """S: leading positions where the two rows of every pair hold the same tokens."""

    @property
    def num_pairs(self) -> int:
        """P."""
        return self.ids_BT.shape[0] // 2


def plan_batches(pairs: Sequence[TokenizedPair], max_tokens: int) -> list[list[int]]:
    """Indices into `pairs` for every batch, longest pairs first, within the token budget.

    A batch of P pairs costs 2 P T tokens, where T is its longest row, padding included. A pair that alone exceeds the
    budget forms its own batch. Sorting by length reduces padding. With the longest pairs first, running out of memory
    shows at once. The plan depends only on its arguments.
    """
    lengths = [_length(pair) for pair in pairs]
    order = sorted(range(len(pairs)), key=lambda position: (-lengths[position], position))
    batches: list[list[int]] = []
    for position in order:
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and 2 * longest * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def padded_tokens(pairs: Sequence[TokenizedPair]) -> int:
    """2 P T, the tokens of a batch with its padding."""
    return 2 * len(pairs) * max(_length(pair) for pair in pairs)


def make_batch(pairs: Sequence[TokenizedPair], device: torch.device, context: int | None = None) -> Batch:
    """The rows of `pairs` as tensors on `device`.

    Args:
        context: most positions that the model is made for; None if unknown. Padding does not go beyond.
    """
    responses = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    num_positions = _padded_length(max(len(response.ids) for response in responses) - 1, device, context)
    ids_BT = torch.zeros(len(responses), num_positions, dtype=torch.long)
    rows: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    for row, response in enumerate(responses):
        ids_BT[row, : len(response.ids) - 1] = torch.tensor(response.ids[:-1], dtype=torch.long)
        scored = range(response.first_scored, len(response.ids))
        rows.extend([row] * len(scored))
        positions.extend(position - 1 for position in scored)
        targets.extend(response.ids[position] for position in scored)

    shared = [num_shared_tokens(pair) for pair in pairs]
    lengths = [len(response.ids) - 1 for response in responses]

    return Batch(
        ids_BT=to_device(ids_BT, device),
        rows_N=to_device(torch.tensor(rows), device),
        positions_N=to_device(torch.tensor(positions), device),
        targets_N=to_device(torch.tensor(targets), device),
        scored=Scored.from_lengths([response.num_scored for response in responses], device),
        layout=TokenLayout.from_lengths(lengths, shared, num_positions).to(device),
        num_shared=min(shared),
    )


def _padded_length(num_positions: int, device: torch.device, context: int | None) -> int:
    """T of a batch whose longest row has `num_positions`.

    A GPU is slow at odd sizes, and its kernels and memory are kept per size. From 512 positions, T is a multiple of 64.
    Below, it is a multiple of 8, 16 or 32, because padding must not cost more than an eighth. `plan_batches` does not
    count these positions.
    """
    if device.type == "cpu":
        return num_positions
    multiple = max(8, min(64, 1 << max(0, num_positions.bit_length() - 4)))
    padded = -(-num_positions // multiple) * multiple
    return padded if context is None else max(num_positions, min(padded, context))


def num_shared_tokens(pair: TokenizedPair) -> int:
    """Number of leading positions where both rows hold the same token. The dropped last token does not count."""
    shared = 0
    for chosen, rejected in zip(pair.chosen.ids[:-1], pair.rejected.ids[:-1], strict=False):
        if chosen != rejected:
            break
        shared += 1
    return shared


def _length(pair: TokenizedPair) -> int:
    """T of a pair alone: a row omits its last token."""
    return max(len(pair.chosen.ids), len(pair.rejected.ids)) - 1
