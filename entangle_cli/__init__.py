"""Gradient entanglement of preference pairs on a causal LM, measured before training.

`scan` is the command's measurement as a function: it prints nothing and returns the records.
"""

from __future__ import annotations

from pathlib import Path

from entangle_cli.records import LoadingSettings, LossSettings, PairRecord, ReadingSettings, ScanSettings

__version__ = "0.5.0"
__all__ = [
    "LoadingSettings",
    "LossSettings",
    "PairRecord",
    "ReadingSettings",
    "ScanSettings",
    "__version__",
    "scan",
]


def scan(
    model: str, data: str | Path, settings: ScanSettings | None = None, output: str | Path | None = None
) -> list[PairRecord]:
    """Measure every pair of a data set.

    Args:
        model: a checkpoint folder or hub name of a causal LM.
        data: a file, pattern, folder or hub name of preference pairs.
        settings: what to measure and under which loss to see it; None for the defaults.
        output: folder of a run to write, or to go on with; None keeps the records in memory only.
    Returns:
        One record a pair of the selected rows, in the order of the data, skipped rows included.
    Raises:
        EntangleError: the model, the data, a setting or the run cannot be used.
    """
    from entangle_cli.diagnose.movements import with_movements
    from entangle_cli.diagnose.scan import open_scan
    from entangle_cli.report.rows import rows
    from entangle_cli.store.reading import columns_of, read_run
    from entangle_cli.store.writing import open_run

    settings = settings or ScanSettings()
    with open_scan(str(model), str(data), settings) as ready:
        if output is None:
            columns = columns_of([record for batch in ready.records() for record in batch.pairs])
        else:
            with open_run(Path(output), ready.identity, ready.about) as writer:
                for batch in ready.records(frozenset(writer.done)):
                    writer.add(batch.pairs, batch.layers)
            columns = dict(read_run(writer.folder).columns)
    return [PairRecord(**row) for row in rows(with_movements(columns, settings.loss, settings.dtype))]
