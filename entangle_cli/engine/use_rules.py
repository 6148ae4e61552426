"""Rules that recognise how a call uses parameters, one per supported torch function.

A rule returns the uses of a call. It raises `Unrecognised` if the call does not have the required form. The parameter
then needs the slow method. No use is ever guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from entangle_cli.engine.calls import BatchShape, Call, Unrecognised
from entangle_cli.engine.expert_tokens import GROUPED_PRODUCT, ExpertTokens, expert_tokens
from entangle_cli.engine.gathered_rows import GatheredRows
from entangle_cli.engine.parameter_aliases import Alias, ParameterAliases
from entangle_cli.engine.uses import LinearInput, Use, UseKind


class UseRules:
    """The rules, for one batch.

    Args:
        shape: shape of the batch's ids.
        aliases: maps tensors to parameters.
        gathered: maps gathered tensors to batch rows.
    """

    def __init__(self, shape: BatchShape, aliases: ParameterAliases, gathered: GatheredRows) -> None:
        self._shape = shape
        self._aliases = aliases
        self._gathered = gathered
        self._inputs: dict[int, tuple[Tensor, LinearInput]] = {}
        self._tokens: dict[int, tuple[Tensor, ExpertTokens]] = {}

    def uses_of(self, call: Call) -> list[Use]:
        """The uses of parameters in a call with at least one parameter.

        Raises:
            Unrecognised: no rule covers the call.
        """
        rule = RULES.get(call.func)
        if rule is None:
            raise Unrecognised
        return rule(self, call)

    def clear(self) -> None:
        """Release the inputs of linear layers."""
        self._inputs.clear()
        self._tokens.clear()

    def linear(self, call: Call) -> list[Use]:
        """F.linear(input, weight, bias)."""
        inputs, weight, bias = (
            call.argument(position, name) for position, name in enumerate(("input", "weight", "bias"))
        )
        return self._product(inputs, weight, bias, outputs_first=True)

    def addmm(self, call: Call) -> list[Use]:
        """torch.addmm(bias, inputs, weight), as transformers' Conv1D calls it."""
        if call.kwargs or len(call.args) != 3:
            raise Unrecognised
        bias, inputs, weight = call.args
        return self._product(inputs, weight, bias, outputs_first=False)

    def matmul(self, call: Call) -> list[Use]:
        """inputs @ weight."""
        inputs, weight = call.args
        return self._product(inputs, weight, None, outputs_first=False)

    def grouped_product(self, call: Call) -> list[Use]:
        """F.grouped_mm(inputs, weights, offs=ends): all experts of a layer, on tokens sorted by expert."""
        inputs, weights = call.args
        alias, rows, ends = self._aliases.alias_of(weights), self._gathered.rows_of(inputs), call.kwargs["offs"]
        is_whole = alias is not None and alias.slice_index is None and alias.entries is None and not alias.is_reshaped
        if alias is None or not is_whole or rows is None or rows.numel() % self._shape.num_rows:
            raise Unrecognised
        if id(ends) not in self._tokens:
            self._tokens[id(ends)] = (ends, expert_tokens(rows, ends, self._shape.num_rows))
        tokens = self._tokens[id(ends)][1]
        return [Use(alias.name, UseKind.GROUPED, weights.shape, inputs.detach(), rows=rows, tokens=tokens)]

    def embedding(self, call: Call) -> list[Use]:
        """F.embedding(ids, weight, ...), with ids [B, T] or one row of ids shared by all rows."""
        ids, weight = call.argument(0, "input"), call.argument(1, "weight")
        alias = self._aliases.alias_of(weight)
        if alias is None or alias.slice_index is not None or alias.is_transposed or alias.is_reshaped:
            raise Unrecognised
        if alias.entries is not None:
            raise Unrecognised
        renormalises = call.argument(3, "max_norm") is not None or bool(call.argument(5, "scale_grad_by_freq"))
        num_rows, num_tokens = self._shape.num_rows, self._shape.num_tokens
        if ids.shape in ((num_tokens,), (1, num_tokens)):
            ids = ids.reshape(1, -1).expand(num_rows, -1)
        if renormalises or ids.shape != (num_rows, num_tokens):
            raise Unrecognised
        constant = call.argument(2, "padding_idx")
        constant = constant if constant is None else constant % weight.shape[0]
        return [Use(alias.name, UseKind.LOOKUP, weight.shape, ids, constant_id=constant)]

    def norm(self, call: Call) -> list[Use]:
        """F.layer_norm or F.rms_norm. The factor of the scale is the norm without parameters."""
        positions = {name: position for position, name in enumerate(NORM_ARGUMENTS[call.func])}
        inputs, shape, weight, bias, eps = (
            call.argument(positions.get(name, len(call.args)), name)
            for name in ("input", "normalized_shape", "weight", "bias", "eps")
        )
        if self._aliases.alias_of(inputs) is not None:
            raise Unrecognised
        rows = self._entries(inputs)
        settings = {} if eps is None else {"eps": eps}
        uses = self._vector(weight, inputs, lambda: call.func(rows, shape, **settings))
        return uses + self._vector(bias, inputs)

    def scale(self, call: Call) -> list[Use]:
        """parameter * values, in either order."""
        parameter, values = self._parameter_and_values(call)
        return self._vector(parameter, values, self._entries(values))

    def shift(self, call: Call) -> list[Use]:
        """parameter + values, in either order."""
        parameter, values = self._parameter_and_values(call)
        self._entries(values)
        return self._vector(parameter, values)

    def shift_in_place(self, call: Call) -> list[Use]:
        """values.add_(parameter)."""
        values = call.args[0]
        if not values.requires_grad:
            raise Unrecognised  # the hook would be on values without a graph
        return self.shift(call)

    def expand(self, call: Call) -> list[Use]:
        """parameter.expand(...): one copy per row, used by attention sinks and learned queries."""
        parameter, *sizes = call.args
        if len(sizes) == 1 and not isinstance(sizes[0], int):
            sizes = list(sizes[0])
        if call.kwargs or not sizes or sizes[0] != self._shape.num_rows:
            raise Unrecognised
        if not _lacks_first_dimension(parameter, len(sizes)):
            raise Unrecognised
        return self._vector(parameter, None)

    def _product(self, inputs: Tensor, weight: Tensor, bias: Any, *, outputs_first: bool) -> list[Use]:
        if self._aliases.alias_of(inputs) is not None:
            raise Unrecognised
        return self._weight(weight, inputs, outputs_first=outputs_first) + self._vector(bias, inputs)

    def _weight(self, weight: Tensor, inputs: Tensor, *, outputs_first: bool) -> list[Use]:
        alias = self._aliases.alias_of(weight)
        if alias is None:
            return []
        if weight.dim() != 2 or alias.entries is not None:
            raise Unrecognised
        rows = self._gathered.rows_of(inputs)
        use = Use(
            alias.name,
            UseKind.LINEAR if rows is None else UseKind.ROUTED,
            weight.T.shape if alias.is_transposed else weight.shape,
            self._shared_input(inputs) if rows is None else inputs.detach(),
            rows=rows,
            slice_index=alias.slice_index,
            outputs_first=outputs_first != alias.is_transposed,
        )
        if rows is not None:
            return [use]
        positions = self._shape.rows_first(inputs).shape[1:-1]
        return [replace(use, has_batch_positions=positions == (self._shape.num_tokens,))]

    def _shared_input(self, values: Tensor) -> LinearInput:
        """A linear layer's input. Layers that read the same tensor share one object."""
        if id(values) not in self._inputs:
            rows = self._shape.rows_first(values).detach()
            self._inputs[id(values)] = (values, LinearInput(rows.reshape(self._shape.num_rows, -1, rows.shape[-1])))
        return self._inputs[id(values)][1]

    def _vector(
        self, value: Any, values: Tensor | None, factor: Tensor | Callable[[], Tensor] | None = None
    ) -> list[Use]:
        """The use of a scale or bias with `values`. These determine the batch rows."""
        alias = self._aliases.alias_of(value)
        if alias is None:
            return []
        if alias.is_transposed:
            raise Unrecognised
        rows = None if values is None else self._gathered.rows_of(values)
        if alias.entries is not None:
            return [_entries_of_bias(alias, rows, factor)]
        return [Use(alias.name, UseKind.VECTOR, value.shape, factor, rows=rows, slice_index=alias.slice_index)]

    def _parameter_and_values(self, call: Call) -> tuple[Tensor, Tensor]:
        """The arguments of an elementwise function: the parameter, and the values over which it is broadcast."""
        if call.kwargs or len(call.args) != 2:
            raise Unrecognised
        first_is_parameter = self._aliases.alias_of(call.args[0]) is not None
        parameter, values = call.args if first_is_parameter else reversed(call.args)
        if self._aliases.alias_of(values) is not None or not isinstance(values, Tensor):
            raise Unrecognised
        alias = self._aliases.alias_of(parameter)
        is_per_token = alias is not None and alias.entries is not None
        if not is_per_token and not _lacks_first_dimension(parameter, values.dim()):
            raise Unrecognised
        if torch.broadcast_shapes(parameter.shape, values.shape) != values.shape:
            raise Unrecognised
        return parameter, values

    def _entries(self, values: Tensor) -> Tensor:
        """Detached values: unchanged if gathered, otherwise with rows first."""
        return (values if self._gathered.rows_of(values) is not None else self._shape.rows_first(values)).detach()


def _entries_of_bias(alias: Alias, rows: Tensor | None, factor: object) -> Use:
    """The use of a bias [X, O] with one entry per gathered token."""
    is_bias = factor is None and alias.tensor.dim() == 2
    if rows is None or alias.entries is None or not is_bias or alias.entries.shape != rows.shape:
        raise Unrecognised
    shape = torch.Size((alias.num_entries, alias.tensor.shape[1]))
    return Use(alias.name, UseKind.VECTOR, shape, None, rows=rows, entries=alias.entries)


def _lacks_first_dimension(parameter: Tensor, num_dimensions: int) -> bool:
    """Whether a parameter broadcast to `num_dimensions` is constant along the first one."""
    return parameter.dim() < num_dimensions or (parameter.dim() == num_dimensions and parameter.shape[0] == 1)


NORM_ARGUMENTS = {
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    F.rms_norm: ("input", "normalized_shape", "weight", "eps"),
}

RULES: Mapping[Any, Callable[[UseRules, Call], list[Use]]] = {
    F.linear: UseRules.linear,
    torch.addmm: UseRules.addmm,
    torch.Tensor.matmul: UseRules.matmul,
    torch.Tensor.__matmul__: UseRules.matmul,
    torch.matmul: UseRules.matmul,
    F.embedding: UseRules.embedding,
    F.layer_norm: UseRules.norm,
    F.rms_norm: UseRules.norm,
    torch.Tensor.expand: UseRules.expand,
    torch.Tensor.mul: UseRules.scale,
    torch.mul: UseRules.scale,
    torch.Tensor.add: UseRules.shift,
    torch.add: UseRules.shift,
    torch.Tensor.add_: UseRules.shift_in_place,
    GROUPED_PRODUCT: UseRules.grouped_product,
}
