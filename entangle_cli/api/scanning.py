"""The measurement as one call: from a model and data to a `Run`, in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entangle_cli.api.run import Run, read
from entangle_cli.records.pair import PairRecord, RecordBatch, RowKey
from entangle_cli.records.plan import ScanEstimate, ScanPlan
from entangle_cli.records.settings import ScanSettings

if TYPE_CHECKING:
    from entangle_cli.analysis.sequential import Decision
    from entangle_cli.diagnose.processes.ranks import Ranks, WorkerRank
    from entangle_cli.diagnose.scan.scan import Scan
    from entangle_cli.store.writing import RunWriter


Model = Any
"""A checkpoint's folder or hub name; or a transformers model and its tokenizer, as a pair."""

Data = Any
"""A file, pattern, folder or hub name of preference pairs, or several; or a `datasets.Dataset` or a list of rows."""


class ScanObserver:
    """Told how a scan goes on; every method may be overridden, and does nothing here."""

    def planned(self, plan: ScanPlan) -> None:
        """The model is loaded and the data are recognised."""

    def opened(self, folder: Path, num_pairs: int) -> None:
        """A run is written to a folder, which holds a number of pairs from an earlier start."""

    @contextmanager
    def measuring(self, num_rows: int, num_done: int) -> Iterator[None]:
        """Open while rows are measured: so many, of which so many were done before."""
        del num_rows, num_done
        yield

    def measured(self, num_rows: int, num_pairs: int) -> None:
        """So many rows were just finished; the run holds so many pairs. What this raises ends the scan."""

    def interrupted(self, folder: Path, num_pairs: int, num_rows: int) -> None:
        """The user ended the scan; the folder holds so many pairs of so many rows."""


def scan(
    model: Model,
    data: Data,
    settings: ScanSettings | None = None,
    output: str | Path | None = None,
    *,
    observer: ScanObserver | None = None,
) -> Run:
    """Measure every pair of a data set.

    Args:
        model: a checkpoint's folder or hub name, or a transformers model with its tokenizer.
        data: a file, pattern, folder or hub name of preference pairs, or several; or a `datasets.Dataset` or rows.
        settings: what to measure and under which loss to see it; None for the defaults.
        output: folder of a run to write, or to go on with; None keeps the run in memory only.
        observer: told of progress.
    Returns:
        One record per pair of the selected rows, in the order of the data, skipped rows included. With
        `until_decided` the rows that were measured until its rules were settled.
    Raises:
        EntangleError: the model, the data, a setting or the run cannot be used.
    """
    settings = settings or ScanSettings()
    observer = observer or ScanObserver()
    if output is not None:
        folder, _ = scan_into_run(model, data, settings, Path(output), observer)
        return read(folder)
    return _scan_in_memory(model, data, settings, observer)


def _scan_in_memory(model: Model, data: Data, settings: ScanSettings, observer: ScanObserver) -> Run:
    from entangle_cli.diagnose.scan.scan import open_scan
    from entangle_cli.diagnose.scan.until_decided import check_until_decided
    from entangle_cli.store.reading import columns_of

    check_until_decided(settings)
    records: list[PairRecord] = []
    with open_scan(model, data, settings) as ready:
        observer.planned(ready.plan)

        def take(batch: RecordBatch) -> None:
            records.extend(batch.pairs)
            observer.measured(_num_rows(batch), len(records))

        def num_rows() -> int:
            return len({record.index for record in records})

        with observer.measuring(ready.plan.num_selected, 0):
            _measure(ready, settings, frozenset(), take, lambda: columns_of(records), num_rows)
        manifest: dict[str, Any] = {
            **ready.about,
            "identity": ready.identity.document,
            "status": "complete",
            "parts": [],
        }
    return Run(None, manifest, columns_of(records), settings.loss)


def _num_rows(batch: RecordBatch) -> int:
    """Rows that a batch counts as done: a ranked row counts with its first pair."""
    return sum(not record.pair_in_row for record in batch.pairs)


def scan_into_run(
    model: Model,
    data: Data,
    settings: ScanSettings,
    output: Path | None,
    observer: ScanObserver,
    *,
    known: Path | None = None,
    about: Mapping[str, Any] | None = None,
    ranks: Ranks | None = None,
) -> tuple[Path, Decision | None]:
    """Measure what a run does not hold yet.

    Args:
        output: its folder; None for one below `entangle-runs/`.
        known: a run from which pairs are taken that it measured.
        about: further entries of the manifest.
        ranks: the processes that share the work; None for this process alone.
    Returns:
        The run's folder, and what was decided where that ends the scan.
    Raises:
        EntangleError: see `scan`.
    """
    from entangle_cli.diagnose.scan.scan import open_scan
    from entangle_cli.diagnose.scan.until_decided import check_until_decided
    from entangle_cli.store.writing import open_run

    check_until_decided(settings)
    with open_scan(model, data, settings, ranks) as ready:
        _agree(ready, known)
        observer.planned(ready.plan)
        writer = open_run(output, ready.identity, {**ready.about, **(about or {})})
        observer.opened(writer.folder, len(writer.done))
        return writer.folder, _measure_into(ready, writer, settings, observer)


def _measure_into(ready: Scan, writer: RunWriter, settings: ScanSettings, observer: ScanObserver) -> Decision | None:
    """Measure and write; whatever ends it early leaves a run that can be read and gone on with."""
    from entangle_cli.store.files import uninterrupted
    from entangle_cli.store.reading import read_run

    ready.ranks.share_done(writer.done)
    try:
        with writer, observer.measuring(ready.plan.num_selected, writer.num_done_rows):

            def take(batch: RecordBatch) -> None:
                writer.add(batch.pairs, batch.layers)
                observer.measured(_num_rows(batch), len(writer.done))

            def columns_so_far() -> Mapping[str, Any]:
                writer.flush()
                return read_run(writer.folder).columns

            return _measure(ready, settings, frozenset(writer.done), take, columns_so_far, lambda: writer.num_done_rows)
    except KeyboardInterrupt:
        with uninterrupted():
            observer.interrupted(writer.folder, len(writer.done), ready.plan.num_selected)
        raise


def _measure(
    ready: Scan,
    settings: ScanSettings,
    done: frozenset[RowKey],
    take: Callable[[RecordBatch], None],
    columns_so_far: Callable[[], Mapping[str, Any]],
    num_rows: Callable[[], int],
) -> Decision | None:
    """Hand on the records of every row, or of so many as the rules of the settings need."""
    from entangle_cli.diagnose.scan.until_decided import measure_until_decided

    if settings.until_decided is not None:
        decision = measure_until_decided(ready, settings.until_decided, settings, done, take, columns_so_far)
        ready.reader.refuse_changed()
        return decision
    for batch in ready.ranks.gather(ready.records(done)):
        take(batch)
    ready.ranks.end_round(is_last=True)
    ready.refuse_other_data(num_rows())
    return None


def check_settings(settings: ScanSettings) -> None:
    """Refuse settings before anything is loaded.

    Raises:
        UsageError: rules of `until_decided` that cannot be settled, or settings that do not go with it.
    """
    from entangle_cli.diagnose.scan.until_decided import check_until_decided

    check_until_decided(settings)


def measure_for_first(model: Model, data: Data, settings: ScanSettings, known: Path | None, rank: WorkerRank) -> None:
    """Measure a share of the batches for rank 0, which writes and reports."""
    from entangle_cli.diagnose.scan.scan import open_scan
    from entangle_cli.diagnose.scan.until_decided import rounds

    with open_scan(model, data, settings, rank) as ready:
        _agree(ready, known)
        done = rank.done()
        for rows in rounds(ready.reader.in_random_order()) if settings.until_decided else [None]:
            for batch in ready.records(done, rows):
                rank.send(batch)
            if not rank.next_round():
                return


def estimate(
    model: Model, data: Data, settings: ScanSettings, ranks: Ranks | None = None
) -> tuple[ScanPlan, ScanEstimate] | None:
    """What a scan would do and take; None on a process that is not the first."""
    from entangle_cli.diagnose.scan.scan import open_scan

    with open_scan(model, data, settings, ranks) as ready:
        return (ready.plan, ready.estimate()) if ready.ranks.rank == 0 else None


def _agree(ready: Scan, known: Path | None) -> None:
    """Take the pairs that are known, and see that all processes take the same."""
    from entangle_cli.store.reading import read_run

    if known is not None:
        ready.take_known(read_run(known))
    ready.ranks.agree({**ready.identity.document, "known pairs": ready.known_identity})


def chosen_checkpoints(model: str, checkpoints: str | None) -> list[str]:
    """The checkpoints of a folder that Trainer wrote: `last`, `all`, or steps such as `100,200`.

    Raises:
        ModelError, UsageError: there are none, or not those.
    """
    from entangle_cli.diagnose.scan.series import chosen_checkpoints as chosen

    return [model] if checkpoints is None else [str(path) for path in chosen(model, checkpoints)]


def write_summary(run: Run) -> None:
    """Write the aggregates of a run into its folder.

    Raises:
        UnfinishedError: they cannot be written.
    """
    from entangle_cli.store.writing import write_summary as write

    assert run.folder is not None
    write(run.folder, run.summary)
