"""Splits record batches into pieces that fit into memory. Dictionaries and compression can hide large batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 1024
PIECE_BYTES = 64 * 2**20
"""Limit on the bytes of a piece's values. A single row may exceed it."""

Sizes = npt.NDArray[np.int64]


class TooLong(NamedTuple):
    """A row that is not read."""

    num_bytes: int


def in_pieces(
    batch: pyarrow.RecordBatch, schema: pyarrow.Schema, max_row_bytes: int
) -> Iterator[pyarrow.RecordBatch | TooLong]:
    """Split a batch into pieces with decoded dictionaries. `TooLong` replaces a row that is too long.

    Args:
        schema: schema of the pieces: the batch's schema without a Parquet file's dictionaries.
    Raises:
        ValueError: a column has an unsupported type.
    """
    sizes = sum((row_bytes(column) for column in batch.columns), np.zeros(batch.num_rows, np.int64))
    start = 0
    while start < batch.num_rows:
        if sizes[start] > max_row_bytes:
            yield TooLong(int(sizes[start]))
            start += 1
            continue
        upcoming = sizes[start : start + BATCH_ROWS]
        ends = np.flatnonzero((np.cumsum(upcoming) > PIECE_BYTES) | (upcoming > max_row_bytes))
        length = max(1, int(ends[0])) if len(ends) else len(upcoming)
        yield _decoded(batch.slice(start, length), schema)
        start += length


def _decoded(piece: pyarrow.RecordBatch, schema: pyarrow.Schema) -> pyarrow.RecordBatch:
    import pyarrow

    if piece.schema.equals(schema):
        return piece
    # A cast decodes the whole list behind a slice. `take` copies only the slice's own values.
    decoded = piece.take(pyarrow.array(range(piece.num_rows), pyarrow.int64())).cast(schema)
    decoded.validate(full=True)
    return decoded


def row_bytes(array: pyarrow.Array) -> Sizes:
    """Bytes in every row of a column with decoded dictionaries, int64 (rows,).

    Raises:
        ValueError: the column has an unsupported type.
    """
    import pyarrow
    import pyarrow.compute

    kind: Any = array.type
    types: Any = pyarrow.types
    if isinstance(array, pyarrow.ExtensionArray):
        return row_bytes(array.storage)
    if types.is_dictionary(kind):
        entries = row_bytes(array.dictionary)
        entries = np.append(entries, 0)  # size of a null
        return entries[_numbers(array.indices, null=len(entries) - 1)]
    if types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        return _numbers(pyarrow.compute.binary_length(array))
    if types.is_struct(kind):
        return sum((row_bytes(field) for field in array.flatten()), np.zeros(len(array), np.int64))
    if types.is_map(kind) or types.is_list(kind) or types.is_large_list(kind):
        return _sums(array, array.offsets.to_numpy(zero_copy_only=False).astype(np.int64))
    if types.is_fixed_size_list(kind):
        start = array.offset * kind.list_size
        return _sums(array, start + kind.list_size * np.arange(len(array) + 1))
    if types.is_nested(kind) or types.is_run_end_encoded(kind) or "view" in str(kind):
        raise ValueError(f"a column of the type {kind}")
    return np.full(len(array), 8, np.int64)


def _sums(array: Any, offsets: Sizes) -> Sizes:
    """Sum of the sizes within every list of a column. A null list counts with the elements that it covers."""
    import pyarrow

    if pyarrow.types.is_map(array.type):
        whole = row_bytes(array.keys) + row_bytes(array.items)
    else:
        whole = row_bytes(array.values)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(whole + 8)])
    sums: Sizes = before[offsets[1:]] - before[offsets[:-1]]
    return sums


def _numbers(array: Any, null: int = 0) -> Sizes:
    numbers: Sizes = array.cast("int64").fill_null(null).to_numpy(zero_copy_only=False)
    return numbers
