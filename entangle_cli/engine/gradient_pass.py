"""One batch: one forward, one sweep of the vocabulary, one backward that carries activation gradients only.

Autograd computes no weight gradient, since no parameter requires one. Each layer's products are formed the
moment its output gradient exists, and its factors are let go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from entangle_cli.engine.batch import Batch
from entangle_cli.engine.head import (
    HeadPass,
    Unembedding,
    hidden_similarities,
    sweep_vocabulary,
    tied_cross_products,
)
from entangle_cli.engine.products import (
    InputGrams,
    at_least_float32,
    gram_is_cheaper,
    gram_products,
    lookup_products,
    materialised_products,
    per_row_sum,
    routed_products,
    vector_products,
)
from entangle_cli.engine.recompute import recomputed_layers
from entangle_cli.engine.recorder import Recorder
from entangle_cli.engine.uses import Consume, LinearInput, Unrecognised, Use, UseKind


class Route(str, Enum):
    """How the products of a linear weight are formed."""

    CHEAPER = "cheaper"
    GRAM = "gram"
    MATERIALISED = "materialised"


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one pass over a batch yields."""

    log_probs_B: Tensor
    """float64, nats, chosen rows first."""
    products: Mapping[str, Tensor]
    """Parameter name to products [3, P]; a parameter the pass did not reach has none."""
    similarities: Tensor | None = None
    """`head.hidden_similarities` [2, P]; None where the head was not seen."""
    head_products: Tensor | None = None
    """Products [3, P] of the unembedding's weight in that role alone; None where it is not among the parameters."""


class UnrecognisedUse(Exception):
    """The forward used parameters in ways no rule covers.

    Args:
        functions: parameter name to the function that took it.
    """

    def __init__(self, functions: Mapping[str, str]) -> None:
        super().__init__(", ".join(functions))
        self.functions = functions


class HeadNotFound(Exception):
    """The forward never applied the unembedding as a linear layer to every position."""


def run_pass(
    model: nn.Module,
    head: Unembedding,
    batch: Batch,
    names: Mapping[int, str],
    route: Route = Route.CHEAPER,
    repeated: Mapping[tuple[str, int | None], int] | None = None,
) -> PassResult:
    """Log-probs of every row and products of every watched parameter.

    Args:
        model: frozen (see `model.frozen`).
        names: id of each watched parameter to its name.
        route: forces a route for linear weights; results agree whichever is taken.
        repeated: if given, layers are computed again in the backward pass instead of being kept; how often each
            parameter (or slice) is used that is used more than once, since its layers are then seen one by one.
    Raises:
        UnrecognisedUse: a watched parameter was used in a way no rule covers.
        HeadNotFound: the unembedding was not seen.
    """
    products = _ProductSum(batch, head, names, route, repeated or {})
    recorder, hidden_BTD = record_forward(model, head, batch, names, products.consume, recompute=repeated is not None)
    if recorder.unrecognised:
        raise UnrecognisedUse(recorder.unrecognised)
    head_pass = sweep_vocabulary(
        head,
        hidden_BTD.detach()[batch.rows_N, batch.positions_N],
        batch.targets_N,
        batch.slices,
        with_products=bool({id(head.weight_VD), id(head.bias_V)} & names.keys()),
    )
    products.start(recorder, head_pass)
    if hidden_BTD.requires_grad:
        seed_BTD = torch.zeros_like(hidden_BTD)
        seed_BTD[batch.rows_N, batch.positions_N] = head_pass.seed_ND
        torch.autograd.backward(hidden_BTD, seed_BTD)
    products.finish()
    if recorder.unrecognised:
        raise UnrecognisedUse(recorder.unrecognised)
    log_probs_B = torch.stack([head_pass.log_probs_N[scored].sum() for scored in batch.slices])
    return PassResult(
        log_probs_B,
        products.totals,
        hidden_similarities(head_pass.hidden_ND, batch.slices),
        head_pass.weight_products if id(head.weight_VD) in names else None,
    )


def record_forward(
    model: nn.Module,
    head: Unembedding,
    batch: Batch,
    names: Mapping[int, str],
    consume: Consume,
    note_kept: Callable[[Tensor], None] | None = None,
    *,
    recompute: bool = False,
) -> tuple[Recorder, Tensor]:
    """Run the model on a batch under a recorder.

    Returns:
        The recorder, and the unembedding's input [B, T, D] with its graph.
    Raises:
        HeadNotFound: the unembedding was not seen.
    """
    num_rows, num_tokens = batch.ids_BT.shape
    recorder = Recorder(names, (num_rows, num_tokens), head.weight_VD, consume, batch.layout, note_kept)
    try:
        layers = recomputed_layers(model, recorder) if recompute else nullcontext()
        with torch.enable_grad(), layers, recorder:
            model(input_ids=batch.ids_BT, use_cache=False)
    except Unrecognised as error:
        # Other uses fall back inside the recorder; only an unembedding of something else than every position ends here.
        raise HeadNotFound from error
    hidden_BTD = recorder.take_hidden()
    if hidden_BTD is None:
        raise HeadNotFound
    return recorder, hidden_BTD


class _ProductSum:
    """Forms products from uses as their gradients arrive; a parameter used more than once waits for its last use."""

    def __init__(
        self,
        batch: Batch,
        head: Unembedding,
        names: Mapping[int, str],
        route: Route,
        repeated: Mapping[tuple[str, int | None], int],
    ) -> None:
        self.totals: dict[str, Tensor] = {}
        self._batch = batch
        self._head = head
        self._route = route
        # A model may be spread over several devices; its products meet at the head.
        self._device = head.weight_VD.device
        self._repeated = repeated
        self._weight_name = names.get(id(head.weight_VD))
        self._bias_name = None if head.bias_V is None else names.get(id(head.bias_V))
        self._grams: dict[LinearInput, InputGrams] = {}
        self._readers_done: Counter[LinearInput] = Counter()
        self._waiting: dict[tuple[str, int | None], list[tuple[Use, Tensor]]] = {}

    def start(self, recorder: Recorder, head_pass: HeadPass) -> None:
        """Take note of what the forward recorded, and of the head's own products."""
        self._num_uses = recorder.num_uses
        self._head_pass = head_pass
        if self._weight_name is not None and head_pass.weight_products is not None:
            self.totals[self._weight_name] = head_pass.weight_products
        if self._bias_name is not None and head_pass.bias_products is not None:
            self.totals[self._bias_name] = head_pass.bias_products

    def consume(self, use: Use, gradient: Tensor) -> None:
        """Called by the recorder's hooks, in backward order."""
        uses = self._waiting.setdefault(use.key, [])
        uses.append((use, gradient))
        if len(uses) == max(self._num_uses[use.key], self._repeated.get(use.key, 0)):
            self._add(self._waiting.pop(use.key))

    def finish(self) -> None:
        """Add parameters some of whose uses the backward pass never reached: those have no gradient."""
        while self._waiting:
            self._add(self._waiting.popitem()[1])

    def _add(self, uses: list[tuple[Use, Tensor]]) -> None:
        use = uses[0][0]
        match use.kind:
            case UseKind.LINEAR:
                products = self._linear(uses)
            case UseKind.ROUTED:
                products = routed_products(*joined(uses), self._batch.ids_BT.shape[0])
            case UseKind.LOOKUP:
                products = self._lookup(uses)
            case _:
                products = vector_products(sum_of_vectors(uses, self._batch.ids_BT.shape[0]))
        # Other slices of the parameter have products of their own; so has the head, whose weight may be an embedding.
        products = products.to(self._device)
        known = self.totals.get(use.name)
        self.totals[use.name] = products if known is None else known + products

    def _linear(self, uses: list[tuple[Use, Tensor]]) -> Tensor:
        if len(uses) > 1:
            # One gradient, summed over the uses: the same as one use with all their tokens in a row.
            inputs_BTI = torch.cat([linear_input(use).values_BTI for use, _ in uses], dim=1)
            gradient_BTO = torch.cat([as_matrix_rows(gradient) for _, gradient in uses], dim=1)
            return self._one_linear(LinearInput(inputs_BTI, num_readers=1), gradient_BTO, 0)
        use, gradient = uses[0]
        num_shared = self._batch.num_shared if use.lines_up else 0
        return self._one_linear(linear_input(use), as_matrix_rows(gradient), num_shared)

    def _one_linear(self, inputs: LinearInput, gradient_BTO: Tensor, num_shared: int) -> Tensor:
        inputs_BTI = inputs.values_BTI
        use_gram = self._route is Route.GRAM or (
            self._route is Route.CHEAPER
            and gram_is_cheaper(
                inputs_BTI.shape[1], num_shared, inputs_BTI.shape[2], gradient_BTO.shape[2], inputs.num_readers
            )
        )
        if not use_gram:
            self._release(inputs)
            return materialised_products(inputs_BTI, gradient_BTO)
        grams = self._grams.get(inputs)
        if grams is None:
            grams = self._grams[inputs] = InputGrams(inputs_BTI, num_shared)
        self._release(inputs)
        return gram_products(grams, gradient_BTO)

    def _release(self, inputs: LinearInput) -> None:
        """One reader of a linear input is done; the last one frees its grams."""
        self._readers_done[inputs] += 1
        if self._readers_done[inputs] == inputs.num_readers:
            self._grams.pop(inputs, None)
            del self._readers_done[inputs]

    def _lookup(self, uses: list[tuple[Use, Tensor]]) -> Tensor:
        ids_BT = torch.cat([left_tensor(use) for use, _ in uses], dim=1)
        gradient_BTD = torch.cat([without_constant_id(use, gradient) for use, gradient in uses], dim=1)
        products = lookup_products(ids_BT, gradient_BTD)
        if uses[0][0].name == self._weight_name:
            products = products + tied_cross_products(
                self._head_pass, self._head, self._batch.slices, ids_BT, gradient_BTD
            )
        return products


def linear_input(use: Use) -> LinearInput:
    """The left factor of a linear use."""
    assert isinstance(use.left, LinearInput)
    return use.left


def left_tensor(use: Use) -> Tensor:
    """The left factor of a routed use or a lookup."""
    assert isinstance(use.left, Tensor)
    return use.left


def as_matrix_rows(gradient: Tensor) -> Tensor:
    """A gradient [B, ..., O] as [B, T, O], all positions in one dimension."""
    return gradient.reshape(gradient.shape[0], -1, gradient.shape[-1])


def without_constant_id(use: Use, gradient_BTD: Tensor) -> Tensor:
    """The gradient of a lookup, zero where autograd stops it because the id is the table's `padding_idx`."""
    if use.constant_id is None:
        return gradient_BTD
    return gradient_BTD.masked_fill((left_tensor(use) == use.constant_id).unsqueeze(-1), 0.0)


def joined(uses: Collection[tuple[Use, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, gradients and batch rows of routed uses, all their tokens one after the other."""
    inputs_nI = torch.cat([left_tensor(use) for use, _ in uses])
    gradient_nO = torch.cat([gradient for _, gradient in uses])
    return inputs_nI, gradient_nO, torch.cat([use.rows for use, _ in uses if use.rows is not None])


def sum_of_vectors(uses: Collection[tuple[Use, Tensor]], num_rows: int) -> Tensor:
    """Gradient of a scale or bias, row by row, summed over its uses, [B, numel]."""
    return torch.stack([_vector(use, gradient, num_rows) for use, gradient in uses]).sum(0)


def _vector(use: Use, gradient: Tensor, num_rows: int) -> Tensor:
    factor = use.left() if callable(use.left) else use.left
    assert not isinstance(factor, LinearInput)
    values = at_least_float32(gradient)
    values = values if factor is None else values * factor.reshape(gradient.shape)
    if use.rows is None:
        return per_row_sum(values, use.shape)
    per_token = per_row_sum(values, use.shape)
    return per_token.new_zeros(num_rows, per_token.shape[1]).index_add_(0, use.rows, per_token)
