"""Writing a subset of the rows of columnar data, with their schema and optional new columns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from entangle_cli.data.arrow_files import ArrowFile, Parquet

Keeps = Callable[[int], bool]
Added = Mapping[str, Callable[[int], Any]]


def write_record_batches(
    source: Parquet | ArrowFile, path: Path, keeps: Keeps, added: Added, types: Mapping[str, type]
) -> None:
    """Write the kept rows of a file, with one batch in memory at a time.

    Args:
        keeps, added, types: see `subset.Subset`.
    """
    import pyarrow

    schema, pieces = source.pieces(sys.maxsize)
    arrow_types = {float: pyarrow.float64(), str: pyarrow.string(), bool: pyarrow.bool_()}
    own = [name for name in schema.names if name not in added]
    schema = pyarrow.schema([schema.field(name) for name in own], schema.metadata)
    for name in added:
        schema = schema.append(pyarrow.field(name, arrow_types[types[name]]))
    start = 0
    with _writer(source, path, schema) as writer:
        for batch in pieces:
            kept = [start + position for position in range(batch.num_rows) if keeps(start + position)]
            rows = batch.take(pyarrow.array([index - start for index in kept], type=pyarrow.int64()))
            columns = [rows.column(name) for name in own]
            new = [
                pyarrow.array([value(index) for index in kept], type=schema.field(name).type)
                for name, value in added.items()
            ]
            writer.write_batch(pyarrow.RecordBatch.from_arrays([*columns, *new], schema=schema))
            start += batch.num_rows


def _writer(source: Parquet | ArrowFile, path: Path, schema: Any) -> Any:
    import pyarrow
    import pyarrow.parquet

    if isinstance(source, Parquet):
        return pyarrow.parquet.ParquetWriter(path, schema)
    return pyarrow.ipc.new_stream(str(path), schema)


def write_dataset(dataset: Any, path: Path, keeps: Keeps, added: Added) -> None:
    """Write the kept rows of a `datasets.Dataset` with `save_to_disk`."""
    import datasets

    datasets.disable_progress_bars()
    kept = [index for index in range(len(dataset)) if keeps(index)]
    # Keep it in memory: a cache file in the source folder would change the source data set.
    chosen = dataset.select(kept).flatten_indices(keep_in_memory=True)
    chosen = chosen.remove_columns([name for name in added if name in chosen.column_names])
    for name, value in added.items():
        chosen = chosen.add_column(name, [value(index) for index in kept])
    chosen.save_to_disk(str(path))
