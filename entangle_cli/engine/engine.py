"""The engine's interface: measures pairs on a model with a selection of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

import torch
from torch import Tensor, nn

from entangle_cli.engine.batch import make_batch
from entangle_cli.engine.coverage import Plan, make_plan
from entangle_cli.engine.gradient_pass import UnrecognisedUse
from entangle_cli.engine.host_copy import HostCopy
from entangle_cli.engine.model import find_unembedding, is_quantised, most_positions, prepared
from entangle_cli.engine.pair_products import PassResult, Route, measure_batch
from entangle_cli.engine.per_response import measure_responses
from entangle_cli.records.measurement import GroupProducts, PairMeasurement, TokenizedPair


class Engine:
    """Measures pairs on one model. A context manager: inside it the model is frozen and in evaluation mode.

    Args:
        model: a Hugging Face causal LM on its device.
        parameters: name to parameter, each tensor once (as in `named_parameters`).
        route: route for linear weights.
        groups: parameter name to group name. If given, measurements include the products per group.

    Attributes:
        plan: the rule of each parameter; set on entering the context.
    """

    plan: Plan

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        route: Route = Route.CHEAPER,
        groups: Mapping[str, str] | None = None,
    ) -> None:
        self._model = model
        self._parameters = dict(parameters)
        self._route = route
        self._groups = dict(groups or {})
        self._head = find_unembedding(model)
        self._stack = ExitStack()

    def __enter__(self) -> Engine:
        with ExitStack() as stack:
            stack.enter_context(prepared(self._model))
            self.plan = make_plan(self._model, self._head, self._parameters, self._head.weight_VD.dtype)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    @property
    def runs_ahead(self) -> bool:
        """Whether `start` returns before the device has finished."""
        return self._head.weight_VD.is_cuda

    def measure(self, pairs: Sequence[TokenizedPair], *, recompute: bool = False) -> list[PairMeasurement]:
        """Measure pairs in one batch; see `start`."""
        return self.start(pairs, recompute=recompute)()

    def start(self, pairs: Sequence[TokenizedPair], *, recompute: bool = False) -> Callable[[], list[PairMeasurement]]:
        """Start a batch. Every response needs at least one scored token.

        Args:
            recompute: recompute layers in the backward pass instead of keeping their activations. This saves memory and
                costs time. Ignored on a CPU with quantised weights, because their kernels would switch to inference.
        Returns:
            A function that waits for the measurements.
        """
        recompute = recompute and not (is_quantised(self._model) and self._head.weight_VD.is_cpu)
        results = self._results(pairs, recompute=recompute)
        numbers = HostCopy(_numbers(results))
        groups = list(dict.fromkeys(self._groups.values()))
        return lambda: _measurements(numbers.read(), groups)

    def _results(self, pairs: Sequence[TokenizedPair], *, recompute: bool) -> list[PassResult]:
        slow = {name: self._parameters[name] for name in self._parameters if name in self.plan.slow}
        device = self._head.weight_VD.device
        groups = self._groups or dict.fromkeys(self._parameters, "all")
        if self.plan.whole_model_slow:
            return [measure_responses(self._model, pairs, slow, device, groups)]
        watched = {id(parameter): name for name, parameter in self._parameters.items() if name not in slow}
        batch = make_batch(pairs, device, most_positions(self._model))
        try:
            repeated = self.plan.repeated if recompute else None
            results = [measure_batch(self._model, self._head, batch, watched, self._route, repeated, groups)]
        except UnrecognisedUse as unrecognised:
            # The probe did not reach this use, for example an expert that got no token.
            self.plan = self.plan.with_slow(unrecognised.functions)
            return self._results(pairs, recompute=recompute)
        if slow:
            results.append(measure_responses(self._model, pairs, slow, device, groups))
        return results


def _numbers(results: Sequence[PassResult]) -> dict[str, Tensor]:
    """All numbers of a batch, float64: "group " and a group's name to its products, and the rest by its own name."""
    groups = dict.fromkeys(group for result in results for group in result.products)
    products = {
        f"group {group}": torch.stack([result.products[group] for result in results if group in result.products]).sum(0)
        for group in groups
    }
    first = results[0]
    others = {
        "total": torch.stack(list(products.values())).sum(0),
        "log_probs": first.log_probs_B,
        "similarities": first.similarities,
        "head": first.head_products,
    }
    return {name: tensor for name, tensor in others.items() if tensor is not None} | products


def _measurements(numbers: Mapping[str, Tensor], groups: Sequence[str]) -> list[PairMeasurement]:
    """The pairs' measurements.

    Args:
        groups: the groups to report, in order. Those without a gradient have zeros.
    """
    num_pairs = numbers["total"].shape[1]
    log_probs = numbers["log_probs"].tolist()
    chosen, rejected, inner = numbers["total"].tolist()
    unknown = [None] * num_pairs
    ches, normalised = numbers["similarities"].tolist() if "similarities" in numbers else (unknown, unknown)
    head_inner = numbers["head"][2].tolist() if "head" in numbers else unknown
    zeros = torch.zeros(3, num_pairs)
    by_group = {group: numbers.get(f"group {group}", zeros).tolist() for group in groups}
    return [
        PairMeasurement(
            chosen_log_prob=log_probs[pair],
            rejected_log_prob=log_probs[num_pairs + pair],
            chosen_squared_norm=chosen[pair],
            rejected_squared_norm=rejected[pair],
            inner_product=inner[pair],
            ches=ches[pair],
            length_normalised_ches=normalised[pair],
            head_inner_product=head_inner[pair],
            groups=tuple(GroupProducts(group, *(side[pair] for side in sides)) for group, sides in by_group.items()),
        )
        for pair in range(num_pairs)
    ]
