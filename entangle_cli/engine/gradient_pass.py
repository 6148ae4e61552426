"""One batch: one forward, one sweep of the vocabulary, one backward that carries activation gradients only.

Autograd computes no weight gradient, since no parameter requires one. Each layer's products are formed the
moment its output gradient exists, and its factors are let go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum

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
    gram_is_cheaper,
    gram_products,
    lookup_products,
    materialised_products,
    routed_products,
    vector_products,
)
from entangle_cli.engine.recompute import recomputed_layers
from entangle_cli.engine.recorder import Recorder
from entangle_cli.engine.use_sum import (
    GatheredUses,
    UseSum,
    as_matrix_rows,
    left_tensor,
    linear_input,
    without_constant_id,
)
from entangle_cli.engine.uses import Consume, LinearInput, Unrecognised


class Route(StrEnum):
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


class _ProductSum(UseSum):
    """Forms the products of pairs."""

    def __init__(
        self,
        batch: Batch,
        head: Unembedding,
        names: Mapping[int, str],
        route: Route,
        repeated: Mapping[tuple[str, int | None], int],
    ) -> None:
        super().__init__(batch.ids_BT.shape[0], head.weight_VD.device, repeated)
        self._batch = batch
        self._head = head
        self._route = route
        self._weight_name = names.get(id(head.weight_VD))
        self._bias_name = None if head.bias_V is None else names.get(id(head.bias_V))
        self._grams: dict[LinearInput, InputGrams] = {}
        self._readers_done: Counter[LinearInput] = Counter()

    def start(self, recorder: Recorder, head_pass: HeadPass) -> None:
        """Take note of what the forward recorded, and of the head's own products."""
        self.take_counts(recorder)
        self._head_pass = head_pass
        if self._weight_name is not None and head_pass.weight_products is not None:
            self.add(self._weight_name, head_pass.weight_products)
        if self._bias_name is not None and head_pass.bias_products is not None:
            self.add(self._bias_name, head_pass.bias_products)

    def routed(self, inputs_nI: Tensor, gradient_nO: Tensor, rows_n: Tensor) -> Tensor:
        """Products of an expert's weight."""
        return routed_products(inputs_nI, gradient_nO, rows_n, self.num_rows)

    def vector(self, gradient_BI: Tensor) -> Tensor:
        """Products of a scale or bias."""
        return vector_products(gradient_BI)

    def linear(self, uses: GatheredUses) -> Tensor:
        """Products of a linear weight."""
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

    def lookup(self, uses: GatheredUses) -> Tensor:
        """Products of an embedding, and what it adds where it is the head's weight too."""
        ids_BT = torch.cat([left_tensor(use) for use, _ in uses], dim=1)
        gradient_BTD = torch.cat([without_constant_id(use, gradient) for use, gradient in uses], dim=1)
        products = lookup_products(ids_BT, gradient_BTD)
        if uses[0][0].name == self._weight_name:
            products = products + tied_cross_products(
                self._head_pass, self._head, self._batch.slices, ids_BT, gradient_BTD
            )
        return products
