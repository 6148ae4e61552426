"""Gradient entanglement of preference pairs on a causal LM, measured before training.

`scan` is the command's measurement as a function: it prints nothing and returns the records.
"""

import sys

# `python -m entangle_cli` puts the working directory in front, where a stranger's dataclasses.py would be imported.
# While Python looks for the package argv[0] is "-m". No import may stand before this, not even that of __future__.
if sys.argv[:1] == ["-m"] and "entangle_cli" in sys.orig_argv and not sys.flags.safe_path:
    del sys.path[0]

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entangle_cli.records import (
    LoadingSettings,
    LossSettings,
    PairRecord,
    ReadingSettings,
    RecordBatch,
    RowKey,
    ScanSettings,
    UntilDecided,
)

if TYPE_CHECKING:
    from entangle_cli.diagnose.scan.scan import Scan

__version__ = "0.6.0"
__all__ = [
    "LoadingSettings",
    "LossSettings",
    "PairRecord",
    "ReadingSettings",
    "ScanSettings",
    "UntilDecided",
    "__version__",
    "scan",
]


def scan(
    model: str,
    data: str | Path | Sequence[str | Path],
    settings: ScanSettings | None = None,
    output: str | Path | None = None,
) -> list[PairRecord]:
    """Measure every pair of a data set.

    Args:
        model: a checkpoint folder or hub name of a causal LM.
        data: a file, pattern, folder or hub name of preference pairs, or several of them.
        settings: what to measure and under which loss to see it; None for the defaults.
        output: folder of a run to write, or to go on with; None keeps the records in memory only.
    Returns:
        One record per pair of the selected rows, in the order of the data, skipped rows included. With
        `until_decided` the rows that were measured until its rules were settled.
    Raises:
        EntangleError: the model, the data, a setting or the run cannot be used.
    """
    from entangle_cli.diagnose.scan.scan import open_scan
    from entangle_cli.diagnose.scan.until_decided import check_until_decided
    from entangle_cli.diagnose.views.movements import with_movements
    from entangle_cli.report.rows import rows
    from entangle_cli.store.reading import columns_of, read_run
    from entangle_cli.store.writing import open_run

    settings = settings or ScanSettings()
    check_until_decided(settings)
    names = [str(data)] if isinstance(data, str | Path) else [str(name) for name in data]
    with open_scan(str(model), names, settings) as ready:
        if output is None:
            records: list[PairRecord] = []
            _measure(
                ready, settings, frozenset(), lambda batch: records.extend(batch.pairs), lambda: columns_of(records)
            )
            columns = columns_of(records)
        else:
            with open_run(Path(output), ready.identity, ready.about) as writer:

                def columns_so_far() -> Mapping[str, Any]:
                    writer.flush()
                    return read_run(writer.folder).columns

                done = frozenset(writer.done)
                _measure(ready, settings, done, lambda batch: writer.add(batch.pairs, batch.layers), columns_so_far)
            columns = dict(read_run(writer.folder).columns)
    return [PairRecord(**row) for row in rows(with_movements(columns, settings.loss, settings.dtype))]


def _measure(
    ready: "Scan",
    settings: ScanSettings,
    done: frozenset[RowKey],
    take: Callable[[RecordBatch], None],
    columns_so_far: Callable[[], Mapping[str, Any]],
) -> None:
    """Hand on the records of every row, or of so many as the rules of the settings need."""
    from entangle_cli.diagnose.scan.until_decided import measure_until_decided

    if settings.until_decided is not None:
        measure_until_decided(ready, settings.until_decided, settings, done, take, columns_so_far)
        ready.reader.refuse_changed()
        return
    rows = {key if isinstance(key, int) else key[0] for key in done}
    for batch in ready.records(done):
        rows |= {record.index for record in batch.pairs}
        take(batch)
    ready.refuse_other_data(len(rows))
