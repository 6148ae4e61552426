"""Collects the uses of each parameter as their gradients arrive, until its gradient is complete."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from entangle_cli.engine.batch import Batch
from entangle_cli.engine.expert_tokens import ExpertTokens
from entangle_cli.engine.head_grams import PairGrams
from entangle_cli.engine.head_sweep import HeadPass
from entangle_cli.engine.products import at_least_float32, per_row_sum
from entangle_cli.engine.unembedding import Unembedding
from entangle_cli.engine.uses import LinearInput, Use, UseKind

UsesWithGradients = list[tuple[Use, Tensor]]
"""Uses of one parameter or slice, each with the gradient at its output."""


class Collector(ABC):
    """Forms the result of each parameter once all its uses have gradients, and adds it up.

    Args:
        batch: the batch of the pass.
        head: the model's unembedding.
        names: id of each watched parameter to its name.
        repeated: number of uses of each parameter or slice that is used more than once; only needed when layers are
            recomputed.

    Attributes:
        head_weight_name: name of the unembedding's weight; None if it is not watched.
        head_bias_name: name of the unembedding's bias; None if it is not watched.
    """

    def __init__(
        self,
        batch: Batch,
        head: Unembedding,
        names: Mapping[int, str],
        repeated: Mapping[tuple[str, int | None], int] | None = None,
    ) -> None:
        self.batch = batch
        self.head = head
        self.num_rows = batch.ids_BT.shape[0]
        self.head_weight_name = names.get(id(head.weight_VD))
        self.head_bias_name = None if head.bias_V is None else names.get(id(head.bias_V))
        # Results meet there. The model may be spread over several devices.
        self.device = head.weight_VD.device
        self._repeated = repeated or {}
        self._num_uses: Mapping[tuple[str, int | None], int] = {}
        self._waiting: dict[tuple[str, int | None], UsesWithGradients] = {}

    @property
    def needs_head_grams(self) -> bool:
        """Whether `take_head` needs the grams of the sweep."""
        return False

    def expect(self, num_uses: Mapping[tuple[str, int | None], int]) -> None:
        """Store how often the forward pass used each parameter."""
        self._num_uses = num_uses

    def consume(self, use: Use, gradient: Tensor) -> None:
        """Add the gradient of one use. The recorder's hooks call this in backward order."""
        uses = self._waiting.setdefault(use.key, [])
        uses.append((use, gradient))
        if len(uses) == max(self._num_uses[use.key], self._repeated.get(use.key, 0)):
            self._form(self._waiting.pop(use.key))

    def finish(self) -> None:
        """Form the remaining results. Some uses have no gradient because the backward pass never reached them."""
        while self._waiting:
            self._form(self._waiting.popitem()[1])

    def _form(self, uses: UsesWithGradients) -> None:
        name = uses[0][0].name
        match uses[0][0].kind:
            case UseKind.LINEAR:
                self.linear(uses)
            case UseKind.ROUTED:
                self.add(name, self.routed(*joined(uses)))
            case UseKind.GROUPED:
                self.add(name, self.grouped(*joined_experts(uses, self.num_rows)))
            case UseKind.LOOKUP:
                self.add(name, self.lookup(uses))
            case _:
                self.vector(name, sum_of_vectors(uses, self.num_rows))

    @abstractmethod
    def add(self, name: str, formed: Tensor) -> None:
        """Add a result of a parameter. One with several slices, or with a use as unembedding, has several."""

    @abstractmethod
    def take_head(self, head_pass: HeadPass, grams: Sequence[PairGrams]) -> None:
        """Form the results of the head's weight and bias. Called before the backward pass."""

    @abstractmethod
    def linear(self, uses: UsesWithGradients) -> None:
        """Add the result for a weight used as y = x W, now or in `finish` at the latest."""

    @abstractmethod
    def routed(self, inputs_GI: Tensor, gradient_GO: Tensor, rows_G: Tensor) -> Tensor:
        """The result for an expert's weight. Its tokens come from anywhere in the batch."""

    @abstractmethod
    def grouped(self, inputs_GI: Tensor, gradient_GO: Tensor, tokens: ExpertTokens) -> Tensor:
        """The result for all experts of a layer, whose weights are one parameter."""

    @abstractmethod
    def lookup(self, uses: UsesWithGradients) -> Tensor:
        """The result for an embedding."""

    @abstractmethod
    def vector(self, name: str, gradient_BK: Tensor) -> None:
        """Add the result for a scale or bias, now or in `finish` at the latest. Its per-row gradients fit in memory."""


def linear_input(use: Use) -> LinearInput:
    """The left factor of a linear use."""
    assert isinstance(use.left, LinearInput)
    return use.left


def left_tensor(use: Use) -> Tensor:
    """The left factor of a routed use or a lookup."""
    assert isinstance(use.left, Tensor)
    return use.left


def as_matrix_rows(gradient: Tensor) -> Tensor:
    """Reshape a gradient [B, ..., O] to [B, T, O], with all positions in one dimension."""
    return gradient.reshape(gradient.shape[0], -1, gradient.shape[-1])


def all_lookups(uses: UsesWithGradients) -> tuple[Tensor, Tensor]:
    """Ids [B, T] and gradients [B, T, D] of all lookups in one table, concatenated along T.

    The gradient is zero at the table's `padding_idx`, as in autograd.
    """
    ids_BT = torch.cat([left_tensor(use) for use, _ in uses], dim=1)
    gradient_BTD = torch.cat([_without_constant_id(use, gradient) for use, gradient in uses], dim=1)
    return ids_BT, gradient_BTD


def _without_constant_id(use: Use, gradient_BTD: Tensor) -> Tensor:
    if use.constant_id is None:
        return gradient_BTD
    return gradient_BTD.masked_fill((left_tensor(use) == use.constant_id).unsqueeze(-1), 0.0)


def joined(uses: Collection[tuple[Use, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [G, I], gradients [G, O] and batch rows [G] of routed uses, concatenated."""
    inputs_GI = torch.cat([left_tensor(use) for use, _ in uses])
    gradient_GO = torch.cat([gradient for _, gradient in uses])
    return inputs_GI, gradient_GO, torch.cat([use.rows for use, _ in uses if use.rows is not None])


def joined_experts(uses: Collection[tuple[Use, Tensor]], num_rows: int) -> tuple[Tensor, Tensor, ExpertTokens]:
    """Inputs [G, I], gradients [G, O] and tokens of grouped uses, concatenated."""
    tokens = [use.tokens for use, _ in uses if use.tokens is not None]
    inputs_GI = torch.cat([left_tensor(use) for use, _ in uses])
    gradient_GO = torch.cat([gradient for _, gradient in uses])
    if len(tokens) == 1:
        return inputs_GI, gradient_GO, tokens[0]
    rows_G, experts_G = (
        torch.cat(parts) for parts in zip(*((each.rows_G, each.experts_G) for each in tokens), strict=True)
    )
    return inputs_GI, gradient_GO, ExpertTokens.sort(rows_G, experts_G, num_rows)


def sum_of_vectors(uses: Collection[tuple[Use, Tensor]], num_rows: int) -> Tensor:
    """Per-row gradient of a scale or bias, summed over its uses, [B, K]."""
    first, *others = (_vector(use, gradient, num_rows) for use, gradient in uses)
    return torch.stack([first, *others]).sum(0) if others else first


def _vector(use: Use, gradient: Tensor, num_rows: int) -> Tensor:
    factor = use.left() if callable(use.left) else use.left
    assert not isinstance(factor, LinearInput)
    values = gradient if factor is None else at_least_float32(gradient) * factor.reshape(gradient.shape)
    if use.rows is None:
        return per_row_sum(values, use.shape)
    if use.entries is None:
        per_token = per_row_sum(values, use.shape)
        return per_token.new_zeros(num_rows, per_token.shape[1]).index_add_(0, use.rows, per_token)
    per_token = at_least_float32(values)
    num_entries = use.shape[0]
    sums = per_token.new_zeros(num_rows * num_entries, per_token.shape[1])
    return sums.index_add_(0, use.rows * num_entries + use.entries, per_token).view(num_rows, -1)
