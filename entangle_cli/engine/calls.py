"""A call of a torch function, and the shapes of batch tensors in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


class Unrecognised(Exception):
    """A call does not have the form required by its rule."""


@dataclass(frozen=True, slots=True)
class Call:
    """A torch function with its arguments."""

    func: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def run(self) -> Any:
        """Make the call and return its result."""
        return self.func(*self.args, **self.kwargs)

    def argument(self, position: int, name: str) -> Any:
        """An argument by position or name; None if it was not given."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name)


@dataclass(frozen=True, slots=True)
class BatchShape:
    """The shape of a batch's ids."""

    num_rows: int
    """B."""
    num_tokens: int
    """T."""

    @property
    def num_positions(self) -> int:
        """F."""
        return self.num_rows * self.num_tokens

    def rows_first(self, values: Tensor) -> Tensor:
        """A view [B, ..., I] of values [B, ..., I] or [F, I].

        Raises:
            Unrecognised: the values have neither shape.
        """
        if values.dim() >= 3 and values.shape[0] == self.num_rows:
            return values
        if values.dim() == 2 and values.shape[0] == self.num_positions:
            return values.view(self.num_rows, self.num_tokens, values.shape[1])
        raise Unrecognised

    def is_by_position(self, values: Tensor) -> bool:
        """Whether values are [B, T, I] or [F, I]."""
        if values.dim() == 3:
            return values.shape[:2] == (self.num_rows, self.num_tokens)
        return values.dim() == 2 and values.shape[0] == self.num_positions
