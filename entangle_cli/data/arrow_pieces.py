"""Record batches in pieces that fit into memory, whatever a dictionary or a compressed column makes of a short file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 1024
PIECE_BYTES = 64 * 2**20
"""Of the values of a piece, unless one row alone has more."""

Sizes = npt.NDArray[np.int64]


class TooLong(NamedTuple):
    """A row that is not read."""

    num_bytes: int


def in_pieces(
    batch: pyarrow.RecordBatch, schema: pyarrow.Schema, max_row_bytes: int
) -> Iterator[pyarrow.RecordBatch | TooLong]:
    """A batch in pieces, with dictionaries written out, and the rows between them that are too long.

    Args:
        schema: of the pieces: that of the batch, without the dictionaries of a Parquet file.
    Raises:
        ValueError: a column of a type that no row of text has.
    """
    sizes = sum((row_bytes(column) for column in batch.columns), np.zeros(batch.num_rows, np.int64))
    start = 0
    while start < batch.num_rows:
        if sizes[start] > max_row_bytes:
            yield TooLong(int(sizes[start]))
            start += 1
            continue
        coming = sizes[start : start + BATCH_ROWS]
        ends = np.flatnonzero((np.cumsum(coming) > PIECE_BYTES) | (coming > max_row_bytes))
        length = max(1, int(ends[0])) if len(ends) else len(coming)
        yield _written_out(batch.slice(start, length), schema)
        start += length


def _written_out(piece: pyarrow.RecordBatch, schema: pyarrow.Schema) -> pyarrow.RecordBatch:
    import pyarrow

    if piece.schema.equals(schema):
        return piece
    # A cast writes out all that a list covers, of which a slice is a view: a copy has no more than its own.
    written = piece.take(pyarrow.array(range(piece.num_rows), pyarrow.int64())).cast(schema)
    written.validate(full=True)
    return written


def row_bytes(array: pyarrow.Array) -> Sizes:
    """Bytes of text in every row of a column, with dictionaries written out. shape (rows,)

    Raises:
        ValueError: of a type that no row of text has.
    """
    import pyarrow
    import pyarrow.compute

    kind: Any = array.type
    types: Any = pyarrow.types
    if isinstance(array, pyarrow.ExtensionArray):
        return row_bytes(array.storage)
    if types.is_dictionary(kind):
        entries = row_bytes(array.dictionary)
        entries = np.append(entries, 0)  # what a null stands for
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
    """Sums of what the lists of a column hold; a null of a list may stand for some, and counts as what it covers."""
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
