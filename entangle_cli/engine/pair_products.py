"""Log-probs and products of a batch of pairs, in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from entangle_cli.engine.batch import Batch
from entangle_cli.engine.collector import Collector, UsesWithGradients, all_lookups, as_matrix_rows, linear_input
from entangle_cli.engine.gradient_pass import run_pass
from entangle_cli.engine.head_grams import PairGrams
from entangle_cli.engine.head_products import head_products, hidden_similarities, tied_cross_products
from entangle_cli.engine.head_sweep import HeadPass
from entangle_cli.engine.linear_products import linear_products
from entangle_cli.engine.products import lookup_products, routed_products, vector_products
from entangle_cli.engine.unembedding import Unembedding
from entangle_cli.engine.uses import LinearInput


class Route(StrEnum):
    """How to compute the products of a linear weight."""

    CHEAPER = "cheaper"
    GRAM = "gram"
    MATERIALISED = "materialised"


@dataclass(frozen=True, slots=True)
class PassResult:
    """Results of one pass over a batch."""

    log_probs_B: Tensor
    """float64, nats, chosen rows first."""
    products: Mapping[str, Tensor]
    """Parameter name to products [3, P]. Parameters that the pass did not reach are missing."""
    similarities: Tensor | None = None
    """`head_products.hidden_similarities` [2, P]; None if the head was not seen."""
    head_products: Tensor | None = None
    """Products [3, P] of the unembedding's weight without its use as an embedding; None if it is not watched."""


def measure_batch(
    model: nn.Module,
    head: Unembedding,
    batch: Batch,
    names: Mapping[int, str],
    route: Route = Route.CHEAPER,
    repeated: Mapping[tuple[str, int | None], int] | None = None,
) -> PassResult:
    """Log-probs of every row and products of every watched parameter.

    Args:
        model: prepared (see `model.prepared`).
        names: id of each watched parameter to its name.
        route: route for linear weights. All routes give the same results.
        repeated: if given, recompute layers in the backward pass instead of keeping their activations. Holds the number
            of uses of each parameter or slice that is used more than once, because recomputed layers run one by one.
    Raises:
        UnrecognisedUse: a watched parameter was used in a way that no rule covers.
        HeadNotFound: the unembedding was not applied to all positions.
    """
    collector = _PairProducts(batch, head, names, route, repeated)
    head_pass = run_pass(model, head, batch, names, collector, recompute=repeated is not None)
    log_probs_B = torch.stack([head_pass.log_probs_N[scored].sum() for scored in batch.slices])
    return PassResult(
        log_probs_B,
        collector.totals,
        hidden_similarities(head_pass.hidden_ND, batch.slices),
        collector.head_weight_products,
    )


class _PairProducts(Collector):
    """Computes the products of pairs, [3, P] per parameter."""

    def __init__(
        self,
        batch: Batch,
        head: Unembedding,
        names: Mapping[int, str],
        route: Route,
        repeated: Mapping[tuple[str, int | None], int] | None,
    ) -> None:
        super().__init__(batch, head, names, repeated)
        self.head_weight_products: Tensor | None = None
        self._route = route
        self._linear = linear_products(batch.ids_BT.device, head.weight_VD.dtype)
        self._grams: dict[LinearInput, Any] = {}
        self._readers_done: Counter[LinearInput] = Counter()

    @property
    def needs_head_grams(self) -> bool:
        """Whether the head's weight or bias is watched."""
        return self.head_weight_name is not None or self.head_bias_name is not None

    def take_head(self, head_pass: HeadPass, grams: Sequence[PairGrams]) -> None:
        """Form the products of the head's weight and bias."""
        self._head_pass = head_pass
        if not self.needs_head_grams:
            return
        weight, bias = head_products(head_pass, self.head, self.batch.slices, grams)
        if self.head_weight_name is not None:
            self.head_weight_products = weight
            self.add(self.head_weight_name, weight)
        if self.head_bias_name is not None:
            self.add(self.head_bias_name, bias)

    def routed(self, inputs_GI: Tensor, gradient_GO: Tensor, rows_G: Tensor) -> Tensor:
        """Products of an expert's weight."""
        return routed_products(inputs_GI, gradient_GO, rows_G, self.num_rows)

    def vector(self, gradient_BI: Tensor) -> Tensor:
        """Products of a scale or bias."""
        return vector_products(gradient_BI)

    def linear(self, uses: UsesWithGradients) -> Tensor:
        """Products of a linear weight."""
        if len(uses) > 1:
            # The uses share one gradient, so concatenating their tokens into one use gives the same result.
            inputs_BTI = torch.cat([linear_input(use).values_BTI for use, _ in uses], dim=1)
            gradient_BTO = torch.cat([as_matrix_rows(gradient) for _, gradient in uses], dim=1)
            return self._one_linear(LinearInput(inputs_BTI, num_readers=1), gradient_BTO, 0)
        use, gradient = uses[0]
        num_shared = self.batch.num_shared if use.has_batch_positions else 0
        return self._one_linear(linear_input(use), as_matrix_rows(gradient), num_shared)

    def _one_linear(self, inputs: LinearInput, gradient_BTO: Tensor, num_shared: int) -> Tensor:
        inputs_BTI = inputs.values_BTI
        use_gram = self._route is Route.GRAM or (
            self._route is Route.CHEAPER
            and self._linear.gram_is_cheaper(
                inputs_BTI.shape[1], num_shared, inputs_BTI.shape[2], gradient_BTO.shape[2], inputs.num_readers
            )
        )
        if not use_gram:
            self._release(inputs)
            return self._linear.materialised_products(inputs_BTI, gradient_BTO)
        grams = self._grams.get(inputs)
        if grams is None:
            grams = self._grams[inputs] = self._linear.input_grams(inputs_BTI, num_shared)
        self._release(inputs)
        return self._linear.gram_products(grams, gradient_BTO)

    def _release(self, inputs: LinearInput) -> None:
        """Mark one reader of a linear input as done. The last one frees its grams."""
        self._readers_done[inputs] += 1
        if self._readers_done[inputs] == inputs.num_readers:
            self._grams.pop(inputs, None)
            del self._readers_done[inputs]

    def lookup(self, uses: UsesWithGradients) -> Tensor:
        """Products of an embedding, with cross terms if it is also the head's weight."""
        ids_BT, gradient_BTD = all_lookups(uses)
        products = lookup_products(ids_BT, gradient_BTD)
        if uses[0][0].name != self.head_weight_name:
            return products
        return products + tied_cross_products(self._head_pass, self.head, self.batch.slices, ids_BT, gradient_BTD)
