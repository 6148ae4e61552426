"""Log-probs and products of a batch of pairs, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor, nn

from entangle_cli.engine.batch import Batch
from entangle_cli.engine.collector import Collector, UsesWithGradients, all_lookups, as_matrix_rows, linear_input
from entangle_cli.engine.expert_tokens import ExpertTokens, expert_products
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
    """Group to products [3, P], summed over its parameters. Groups that the pass did not reach are missing."""
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
    groups: Mapping[str, str] | None = None,
) -> PassResult:
    """Log-probs of every row and products of every watched parameter.

    Args:
        model: prepared (see `model.prepared`).
        names: id of each watched parameter to its name.
        route: route for linear weights. All routes give the same results.
        repeated: if given, recompute layers in the backward pass instead of keeping their activations. Holds the number
            of uses of each parameter or slice that is used more than once, because recomputed layers run one by one.
        groups: parameter name to the group in which its products are summed; None for one group per parameter. Large
            groups save time.
    Raises:
        UnrecognisedUse: a watched parameter was used in a way that no rule covers.
        HeadNotFound: the unembedding was not applied to all positions.
    """
    collector = _PairProducts(batch, head, names, route, repeated, groups)
    head_pass = run_pass(model, head, batch, names, collector, recompute=repeated is not None)
    return PassResult(
        batch.scored.row_sums(head_pass.log_probs_N),
        {group: torch.stack(parts).sum(0) for group, parts in collector.parts.items()},
        hidden_similarities(head_pass.hidden_ND, batch.scored),
        collector.head_weight_products,
    )


@dataclass(slots=True)
class _Readings:
    """Weights that read one input, until all of them have gradients."""

    num_shared: int
    names: list[str] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    """[B, T, O] of each weight."""


class _PairProducts(Collector):
    """Computes the products of pairs.

    Attributes:
        parts: group to products [3, P], to be summed.
    """

    def __init__(
        self,
        batch: Batch,
        head: Unembedding,
        names: Mapping[int, str],
        route: Route,
        repeated: Mapping[tuple[str, int | None], int] | None,
        groups: Mapping[str, str] | None,
    ) -> None:
        super().__init__(batch, head, names, repeated)
        self.parts: dict[str, list[Tensor]] = {}
        self.head_weight_products: Tensor | None = None
        self._route = route
        self._linear = linear_products(batch.ids_BT.device, head.weight_VD.dtype)
        self._groups = groups
        self._readings: dict[LinearInput, _Readings] = {}
        self._vectors: dict[str, list[Tensor]] = {}

    @property
    def needs_head_grams(self) -> bool:
        """Whether the head's weight or bias is watched."""
        return self.head_weight_name is not None or self.head_bias_name is not None

    def take_head(self, head_pass: HeadPass, grams: Sequence[PairGrams]) -> None:
        """Form the products of the head's weight and bias."""
        self._head_pass = head_pass
        self._head_groups = [gram.group for gram in grams]
        if not self.needs_head_grams:
            return
        weight, bias = head_products(head_pass, self.head, grams)
        if self.head_weight_name is not None:
            self.head_weight_products = weight
            self.add(self.head_weight_name, weight)
        if self.head_bias_name is not None:
            self.add(self.head_bias_name, bias)

    def routed(self, inputs_GI: Tensor, gradient_GO: Tensor, rows_G: Tensor) -> Tensor:
        """Products of an expert's weight."""
        return routed_products(inputs_GI, gradient_GO, rows_G, self.num_rows)

    def grouped(self, inputs_GI: Tensor, gradient_GO: Tensor, tokens: ExpertTokens) -> Tensor:
        """Products of the experts of a layer."""
        return expert_products(inputs_GI, gradient_GO, tokens)

    def vector(self, name: str, gradient_BK: Tensor) -> None:
        """Keep the gradient of a scale or bias. Those of a group are multiplied together in `finish`."""
        self._vectors.setdefault(self._group(name), []).append(gradient_BK.to(self.device))

    def add(self, name: str, formed: Tensor) -> None:
        """Add to a parameter's group."""
        self._add(self._group(name), formed)

    def _add(self, group: str, formed: Tensor) -> None:
        self.parts.setdefault(group, []).append(formed.to(self.device))

    def _group(self, name: str) -> str:
        return name if self._groups is None else self._groups[name]

    def linear(self, uses: UsesWithGradients) -> None:
        """Add the products of a linear weight once all readers of its inputs have gradients."""
        if len(uses) > 1:
            # The uses share one gradient, so concatenating their tokens into one use gives the same result.
            inputs_BTI = torch.cat([linear_input(use).values_BTI for use, _ in uses], dim=1)
            gradient_BTO = torch.cat([as_matrix_rows(gradient) for _, gradient in uses], dim=1)
            self._read(uses[0][0].name, LinearInput(inputs_BTI, num_readers=1), gradient_BTO, 0)
            return
        use, gradient = uses[0]
        num_shared = self.batch.num_shared if use.has_batch_positions else 0
        self._read(use.name, linear_input(use), as_matrix_rows(gradient), num_shared)

    def _read(self, name: str, inputs: LinearInput, gradient_BTO: Tensor, num_shared: int) -> None:
        readings = self._readings.setdefault(inputs, _Readings(num_shared))
        readings.names.append(name)
        readings.gradients.append(gradient_BTO)
        if len(readings.names) == inputs.num_readers:
            self._form_linear(inputs.values_BTI, self._readings.pop(inputs))

    def _form_linear(self, inputs_BTI: Tensor, readings: _Readings) -> None:
        on_gram_route: dict[str, list[Tensor]] = {}
        for name, gradient_BTO, uses_gram in zip(
            readings.names, readings.gradients, self._on_gram_route(inputs_BTI, readings), strict=True
        ):
            if uses_gram:
                on_gram_route.setdefault(self._group(name), []).append(gradient_BTO)
            else:
                self._add(self._group(name), self._linear.materialised_products(inputs_BTI, gradient_BTO))
        if on_gram_route:
            grams = self._linear.input_grams(inputs_BTI, readings.num_shared)
            for group, gradients in on_gram_route.items():
                self._add(group, self._linear.gram_products(grams, gradients))

    def _on_gram_route(self, inputs_BTI: Tensor, readings: _Readings) -> list[bool]:
        if self._route is not Route.CHEAPER:
            return [self._route is Route.GRAM] * len(readings.names)
        _, num_tokens, num_inputs = inputs_BTI.shape
        widths = [gradient_BTO.shape[2] for gradient_BTO in readings.gradients]
        return self._linear.route_costs(num_tokens, readings.num_shared, num_inputs, widths).on_gram_route()

    def finish(self) -> None:
        """Form the remaining results. Some readers of an input have no gradient."""
        super().finish()
        while self._readings:
            inputs, readings = self._readings.popitem()
            self._form_linear(inputs.values_BTI, readings)
        while self._vectors:
            group, gradients = self._vectors.popitem()
            self._add(group, vector_products(torch.cat(gradients, dim=1)))

    def lookup(self, uses: UsesWithGradients) -> Tensor:
        """Products of an embedding, with cross terms if it is also the head's weight."""
        ids_BT, gradient_BTD = all_lookups(uses)
        products = lookup_products(ids_BT, gradient_BTD)
        if uses[0][0].name != self.head_weight_name:
            return products
        return products + tied_cross_products(self._head_pass, self.head, self._head_groups, ids_BT, gradient_BTD)
