"""Tracks the batch row of each entry in a gathered tensor.

A mixture-of-experts layer gathers the tokens of an expert into a matrix [G, I], in an order that depends on the data.
Following the gather and all entry-wise functions of its result gives the rows of the tokens in a later linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class GatheredRows:
    """Batch rows of the entries of tensors gathered from the B * T positions of a batch.

    Args:
        num_rows: B.
        num_tokens: T.
    """

    def __init__(self, num_rows: int, num_tokens: int) -> None:
        self._num_positions = num_rows * num_tokens
        self._num_tokens = num_tokens
        self._rows = WeakTensorKeyDictionary()

    def rows_of(self, values: Tensor) -> Tensor | None:
        """Batch row of each entry along the first dimension, int64 [G]; None if the tensor was not gathered."""
        rows: Tensor | None = self._rows.get(values) if len(self._rows) else None
        return rows

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()

    def follow(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Record the rows of a torch function's result, derived from the rows of its arguments."""
        if func in GATHERS:
            self._gather(func, args, result)
        elif len(self._rows) and func not in MIXES_ENTRIES:
            self._inherit(func, args, kwargs, result)

    def _gather(self, func: Any, args: Sequence[Any], result: Any) -> None:
        source, index = args[0], args[-1]
        if func is torch.Tensor.__getitem__ and isinstance(index, tuple):
            # hidden_states[None, tokens] of older expert layers
            index = index[1] if len(index) == 2 and index[0] is None else None
        if not isinstance(source, Tensor) or not isinstance(result, Tensor):
            return
        rows = self.rows_of(source)
        if not isinstance(index, Tensor):
            if rows is not None and result.shape[0] == rows.numel():
                self._rows[result] = rows
            return
        if index.dim() != 1 or source.dim() != 2:
            return
        if rows is not None:
            self._rows[result] = rows[index]
        elif source.shape[0] == self._num_positions and source.is_floating_point():
            positions = index.nonzero().squeeze(1) if index.dtype == torch.bool else index
            self._rows[result] = positions.long() // self._num_tokens

    def _inherit(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        if func in JOINS:
            parts = [rows for part in args[0] if (rows := self.rows_of(part)) is not None]
            dimension = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            if len(parts) == len(args[0]) and dimension == 0:
                self._rows[result] = torch.cat(parts)
            return
        arguments = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        rows = next((known for value in arguments if (known := self.rows_of(value)) is not None), None)
        if rows is None:
            return
        pieces = result if isinstance(result, list | tuple) else [result]
        if func in SPLITS and sum(piece.shape[0] for piece in pieces) == rows.numel():
            sizes = [piece.shape[0] for piece in pieces]
            for piece, piece_rows in zip(pieces, rows.split(sizes), strict=True):
                self._rows[piece] = piece_rows
            return
        for piece in pieces:
            if isinstance(piece, Tensor) and piece.dim() >= 2 and piece.shape[0] == rows.numel():
                self._rows[piece] = rows


GATHERS = {torch.Tensor.__getitem__, torch.Tensor.index_select, torch.index_select}
JOINS = {torch.cat}
SPLITS = {torch.split, torch.Tensor.split}

MIXES_ENTRIES = {
    torch.Tensor.index_add,
    torch.Tensor.index_add_,
    torch.Tensor.index_copy,
    torch.Tensor.index_copy_,
    torch.Tensor.scatter_add,
    torch.Tensor.scatter_add_,
    torch.Tensor.scatter,
    torch.Tensor.scatter_,
    torch.Tensor.__setitem__,
    torch.Tensor.flip,
    torch.Tensor.roll,
    torch.Tensor.sort,
}
"""Functions that combine or reorder entries, even if the number of entries stays the same."""
