"""A part's columns, and the conversion between records and tables."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from entangle_cli.records.pair import PAIR_FIELDS, Kind, LayerRecord, PairRecord, field_names
from entangle_cli.store.files import write_atomically

STORED_FIELDS = field_names(by_loss=False)
"""Measured fields. Fields that depend on the loss are computed when a run is read."""

TEXT_FIELDS = field_names(Kind.TEXT, by_loss=False)

ARROW_TYPES = {
    Kind.TEXT: pyarrow.string(),
    Kind.FLAG: pyarrow.bool_(),
    Kind.COUNT: pyarrow.int64(),
    Kind.NUMBER: pyarrow.float64(),
}

LAYER_NUMBERS = ("chosen_squared_norm", "rejected_squared_norm", "inner_product")
SCHEMA_OF_LAYERS = pyarrow.schema(
    [
        ("index", pyarrow.int64()),
        ("pair_in_row", pyarrow.int64()),
        ("group", pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
        *((name, pyarrow.float64()) for name in LAYER_NUMBERS),
    ]
)

SCHEMA_OF_PARTS = pyarrow.schema([(name, ARROW_TYPES[PAIR_FIELDS[name].kind]) for name in STORED_FIELDS])


def pair_table(records: Sequence[PairRecord]) -> pyarrow.Table:
    """The stored fields of pairs, one row per pair."""
    columns = {name: [getattr(record, name) for record in records] for name in STORED_FIELDS}
    for name in TEXT_FIELDS:
        columns[name] = [text if text is None else _encodable(text) for text in columns[name]]
    return pyarrow.Table.from_pydict(columns, schema=SCHEMA_OF_PARTS)


def _encodable(text: str) -> str:
    """Text that UTF-8 can encode: lone surrogates, which JSON allows, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def layer_table(records: Sequence[LayerRecord]) -> pyarrow.Table:
    """The layers of pairs, one row per pair and group."""
    columns: dict[str, Any] = {
        "index": [record.index for record in records],
        "pair_in_row": [record.pair_in_row for record in records],
        "group": pyarrow.array([record.products.group for record in records]).dictionary_encode(),
        **{name: [getattr(record.products, name) for record in records] for name in LAYER_NUMBERS},
    }
    return pyarrow.Table.from_pydict(columns, schema=SCHEMA_OF_LAYERS)


def write_table(path: Path, table: pyarrow.Table) -> str:
    """Write a part and return its SHA-256, hexadecimal."""
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def read_part(path: Path, names: list[str] | None = None) -> pyarrow.Table:
    """Read one part.

    It does not use `pyarrow.parquet.read_table`, which loads pandas. That takes longer than reading a small run.

    Args:
        names: columns to read, if the part has them; None for all.
    Raises:
        OSError: the path is not a regular file. Opening a pipe would block forever.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read(names if names is None else [name for name in names if name in file.schema_arrow.names])


def numbers(column: pyarrow.ChunkedArray) -> Any:
    """A column as float64 with NaN for null."""
    return _filled(column.cast(pyarrow.float64()).combine_chunks(), np.array([np.nan]))


def texts(column: pyarrow.ChunkedArray, seen: dict[str, str]) -> Any:
    """A text column as objects with None for null. Equal texts share one object, also across parts.

    Args:
        seen: repeated texts of earlier parts; extended by this call.
    """
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if len(values) < len(column) / 2:
        values = [seen.setdefault(text, text) for text in values]
    indices = _filled(encoded.indices, np.array([len(values)], dtype=np.int32))
    return np.array([*values, None], dtype=object)[indices]


def _filled(array: pyarrow.Array, value: Any) -> Any:
    """Convert an array of numbers to numpy, with nulls replaced by the single element of `value`.

    It uses DLPack and a scalar made from bytes. `to_numpy` and `pyarrow.scalar` load pandas if it is installed.
    """
    scalar = pyarrow.Array.from_buffers(array.type, 1, [None, pyarrow.py_buffer(value)])[0]
    return np.from_dlpack(array.fill_null(scalar))
