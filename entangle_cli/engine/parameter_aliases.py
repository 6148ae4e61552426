"""Aliases of a parameter: the parameter itself, and views and casts of it or of one of its slices.

Models often transpose, reshape, cast or index a parameter before use, or add a constant (Gemma's 1 + w). The results
have the parameter's gradient, so using them counts as using the parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Alias:
    """A tensor with the gradient of a parameter or of a slice of one."""

    tensor: Tensor
    name: str
    """Name of the parameter."""
    slice_index: int | None = None
    entries: Tensor | None = None
    """int64: the tensor consists of these entries of the parameter's first dimension; None for the whole parameter."""
    num_entries: int = 0
    """Size of that dimension."""
    is_transposed: bool = False
    is_reshaped: bool = False
    """The tensor has the parameter's elements in the same order with a different shape."""


class ParameterAliases:
    """Tracks watched parameters through functions that return aliases of them.

    Args:
        names: id of each watched parameter to its name.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._aliases: dict[int, Alias] = {}

    def alias_of(self, value: Any) -> Alias | None:
        """The alias for `value`; None if it is not a watched parameter, or a slice or an alias of one."""
        if not isinstance(value, Tensor):
            return None
        alias = self._aliases.get(id(value))
        if alias is not None:
            return alias
        name = self._names.get(id(value))
        return None if name is None else Alias(value, name)

    def parameters_in(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[str]:
        """Names of the parameters among a call's arguments."""
        return [
            alias.name
            for value in (*args, *kwargs.values())
            for item in (value if isinstance(value, list | tuple) else (value,))
            if (alias := self.alias_of(item)) is not None
        ]

    def result_alias(self, func: Any, args: Sequence[Any]) -> Alias | None:
        """The alias for the result of a call; None if the result is not a view or cast of a parameter."""
        source = self.alias_of(args[0]) if args else None
        if source is None:
            return None
        if func in CASTS or (func is torch.Tensor.add and isinstance(args[-1], int | float)):
            return source
        if source.entries is not None:
            return None
        if func in TRANSPOSITIONS and not source.is_reshaped and _swaps_last_two(source.tensor, args[1:]):
            return replace(source, is_transposed=not source.is_transposed)
        if func in RESHAPES or (func is torch.Tensor.__getitem__ and _only_adds_dimensions(args[1])):
            return None if source.is_transposed else replace(source, is_reshaped=True)
        if func is torch.Tensor.__getitem__ and source.slice_index is None and source.tensor.dim() >= 2:
            index = args[1]
            if isinstance(index, int) or (isinstance(index, Tensor) and index.dim() == 0 and index.dtype == torch.long):
                return replace(source, slice_index=int(index))
            if isinstance(index, Tensor) and index.dim() == 1 and index.dtype == torch.long and not source.is_reshaped:
                return (
                    None if source.is_transposed else replace(source, entries=index, num_entries=source.tensor.shape[0])
                )
        return None

    def remember(self, result: Tensor, alias: Alias) -> None:
        """Register `result` as an alias. It is kept alive so no other tensor can reuse its id."""
        if id(result) not in self._names:
            self._aliases[id(result)] = replace(alias, tensor=result)

    def clear(self) -> None:
        """Remove all aliases."""
        self._aliases.clear()


def _swaps_last_two(tensor: Tensor, dimensions: Sequence[Any]) -> bool:
    return tensor.dim() == 2 or (tensor.dim() == 3 and {value % 3 for value in dimensions} == {1, 2})


def _only_adds_dimensions(index: Any) -> bool:
    """Whether the index keeps every element in order, such as [None, :, None]."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or (isinstance(part, slice) and part == slice(None)) for part in parts)


CASTS = {torch.Tensor.float, torch.Tensor.double, torch.Tensor.to, torch.Tensor.type, torch.Tensor.type_as}

TRANSPOSITIONS = {
    torch.Tensor.t,
    torch.t,
    torch.Tensor.transpose,
    *(getattr(torch.Tensor, name).__get__ for name in ("T", "mT")),
}

RESHAPES = {
    torch.Tensor.reshape,
    torch.Tensor.view,
    torch.Tensor.squeeze,
    torch.Tensor.unsqueeze,
    torch.unsqueeze,
    torch.squeeze,
    torch.Tensor.flatten,
}
