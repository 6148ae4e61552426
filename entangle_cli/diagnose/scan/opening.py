"""Opens a scan: its data first, because they may be wrong and open fast, then its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from entangle_cli.data.checkpoint import check_dtype, quiet_libraries
from entangle_cli.data.in_memory import RowsInMemory, is_rows
from entangle_cli.data.origin import refuse_swapped
from entangle_cli.data.rows import RowSource
from entangle_cli.data.sources import named_data, open_source
from entangle_cli.diagnose.scan.loaded_model import LoadedModel, open_model
from entangle_cli.diagnose.scan.row_reader import pair_reader
from entangle_cli.diagnose.scan.scan import OpenedData, Scan
from entangle_cli.diagnose.views.first_rows import peeked_formats
from entangle_cli.records.settings import ScanSettings


@contextmanager
def open_scan(
    model: Any, data: Any, settings: ScanSettings, notify: Callable[[str], None] = lambda _: None
) -> Iterator[Scan]:
    """Open the data, load the checkpoint and choose the rule for every parameter. Measures nothing yet.

    Args:
        model: a checkpoint's folder or hub name, or a tuple of a transformers model and its tokenizer.
        data: names of data sets, a `datasets.Dataset`, or rows.
        notify: called with messages about the workers.
    Raises:
        DataError: the data cannot be read, or none of the first rows holds a pair.
        ModelError: the checkpoint cannot be used.
        UsageError: a setting does not fit the machine or the model.
    """
    if settings.workers is None:
        with open_local_scan(model, data, settings) as (scan, _):
            yield scan
        return
    from entangle_cli.diagnose.workers.opening import open_workers

    opened = _open_data(model, data, settings)
    with quiet_libraries(), open_workers(model, settings, settings.workers, notify) as pool:
        yield _checked(Scan(pool, opened, settings))


@contextmanager
def open_local_scan(model: Any, data: Any, settings: ScanSettings) -> Iterator[tuple[Scan, LoadedModel]]:
    """A scan with its model in this process; see `open_scan`."""
    opened = _open_data(model, data, settings)
    with quiet_libraries(), open_model(model, settings) as loaded:
        yield _checked(Scan(loaded, opened, settings)), loaded


def _open_data(model: Any, data: Any, settings: ScanSettings) -> OpenedData:
    check_dtype(settings.dtype)
    source = _source(model, data, settings)
    pairs = pair_reader(source, settings.reading)
    return OpenedData(source, pairs, peeked_formats(source, pairs, settings.reading))


def _source(model: Any, data: Any, settings: ScanSettings) -> RowSource:
    if is_rows(data):
        return RowsInMemory(data)
    names = named_data(data)
    if isinstance(model, str | Path):
        refuse_swapped(str(model), names)
    return open_source(names, settings.reading, settings.limit)


def _checked(scan: Scan) -> Scan:
    scan.reader.check()
    return scan
