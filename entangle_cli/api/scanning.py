"""The scan as one call: from a model and data to a `Run`, in memory or on disk."""

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
    from entangle_cli.diagnose.scan.scan import Scan
    from entangle_cli.store.writing import RunWriter


Model = Any
"""A checkpoint's folder or hub name; or a tuple of a transformers model and its tokenizer."""

Data = Any
"""A file, pattern, folder or hub name of preference pairs, or several; or a `datasets.Dataset` or a list of rows."""


class ScanObserver:
    """Receives the progress of a scan. All methods do nothing unless overridden."""

    def noticed(self, message: str) -> None:
        """Called with a message about the workers, for example that one died and is started again."""

    def planned(self, plan: ScanPlan) -> None:
        """Called after the model is loaded and the data are recognised."""

    def opened(self, folder: Path, num_pairs: int) -> None:
        """Called when the run's folder is open. `num_pairs` pairs are from an earlier start."""

    @contextmanager
    def measuring(self, num_rows: int, num_done: int) -> Iterator[None]:
        """Entered while rows are measured: `num_rows` in total, `num_done` from an earlier start."""
        del num_rows, num_done
        yield

    def measured(self, num_rows: int, num_pairs: int) -> None:
        """Called for `num_rows` newly finished rows; the run now holds `num_pairs`. An exception ends the scan."""

    def interrupted(self, folder: Path, num_pairs: int, num_rows: int) -> None:
        """Called if the user ends the scan. The folder holds `num_pairs` pairs; `num_rows` rows were selected."""


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
        settings: settings of the measurement, including the loss; None for the defaults.
        output: folder of a run to write or to resume; None keeps the run in memory only.
        observer: receives progress.
    Returns:
        One record per pair of the selected rows, in the order of the data, including skipped rows. With
        `until_decided`, only the rows that were measured before its rules were decided.
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
    from entangle_cli.diagnose.scan.opening import open_scan
    from entangle_cli.diagnose.scan.until_decided import check_until_decided
    from entangle_cli.store.reading import columns_of

    check_until_decided(settings)
    records: list[PairRecord] = []
    with open_scan(model, data, settings, observer.noticed) as ready:
        observer.planned(ready.plan)

        def store(batch: RecordBatch) -> None:
            records.extend(batch.pairs)
            observer.measured(_num_rows(batch), len(records))

        def num_rows() -> int:
            return len({record.index for record in records})

        with observer.measuring(ready.plan.num_selected, 0):
            _measure(ready, settings, frozenset(), store, lambda: columns_of(records), num_rows)
        manifest: dict[str, Any] = {
            **ready.about,
            "identity": ready.identity.document,
            "status": "complete",
            "parts": [],
        }
    return Run(None, manifest, columns_of(records), settings.loss)


def _num_rows(batch: RecordBatch) -> int:
    """Number of rows that a batch completes. A ranked row counts with its first pair."""
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
) -> tuple[Path, Decision | None]:
    """Measure the pairs that a run does not hold yet.

    Args:
        output: folder of the run; None for a new one in `entangle-runs/`.
        known: an earlier run, to reuse its measured pairs.
        about: additional entries of the manifest.
    Returns:
        The run's folder, and the decision of `until_decided`; None without it.
    Raises:
        EntangleError: see `scan`.
    """
    from entangle_cli.diagnose.scan.opening import open_scan
    from entangle_cli.diagnose.scan.until_decided import check_until_decided
    from entangle_cli.store.reading import read_run
    from entangle_cli.store.writing import open_run

    check_until_decided(settings)
    with open_scan(model, data, settings, observer.noticed) as ready:
        if known is not None:
            ready.reuse_pairs(read_run(known))
        observer.planned(ready.plan)
        writer = open_run(output, ready.identity, {**ready.about, **(about or {})})
        observer.opened(writer.folder, len(writer.done))
        return writer.folder, _measure_into(ready, writer, settings, observer)


def _measure_into(ready: Scan, writer: RunWriter, settings: ScanSettings, observer: ScanObserver) -> Decision | None:
    """Measure and write. If the scan ends early, the run can still be read and resumed."""
    from entangle_cli.store.files import uninterrupted
    from entangle_cli.store.reading import read_run

    try:
        with writer, observer.measuring(ready.plan.num_selected, writer.num_done_rows):

            def store(batch: RecordBatch) -> None:
                writer.add(batch.pairs, batch.layers)
                observer.measured(_num_rows(batch), len(writer.done))

            def columns_so_far() -> Mapping[str, Any]:
                writer.flush()
                return read_run(writer.folder).columns

            return _measure(
                ready, settings, frozenset(writer.done), store, columns_so_far, lambda: writer.num_done_rows
            )
    except KeyboardInterrupt:
        with uninterrupted():
            observer.interrupted(writer.folder, len(writer.done), ready.plan.num_selected)
        raise


def _measure(
    ready: Scan,
    settings: ScanSettings,
    done: frozenset[RowKey],
    store: Callable[[RecordBatch], None],
    columns_so_far: Callable[[], Mapping[str, Any]],
    num_rows: Callable[[], int],
) -> Decision | None:
    """Measure and store the records of all rows, or with `until_decided`, until the rules are decided."""
    from entangle_cli.diagnose.scan.until_decided import measure_until_decided

    if settings.until_decided is not None:
        decision = measure_until_decided(ready, settings.until_decided, settings, done, store, columns_so_far)
        ready.reader.refuse_changed()
        return decision
    for batch in ready.records(done):
        store(batch)
    ready.refuse_other_data(num_rows())
    return None


def check_settings(settings: ScanSettings) -> None:
    """Check settings before anything is loaded.

    Raises:
        UsageError: a rule of `until_decided` cannot be decided, or a setting is incompatible with it.
    """
    from entangle_cli.diagnose.scan.until_decided import check_until_decided

    check_until_decided(settings)


@contextmanager
def workers_started(settings: ScanSettings) -> Iterator[None]:
    """Keep the settings' workers' Ray cluster for several scans. Without workers, this does nothing.

    Raises:
        UsageError: Ray is not installed, or its cluster cannot be joined.
    """
    if settings.workers is None:
        yield
        return
    from entangle_cli.diagnose.workers.cluster import connected

    with connected(settings.workers):
        yield


def estimate(
    model: Model, data: Data, settings: ScanSettings, observer: ScanObserver | None = None
) -> tuple[ScanPlan, ScanEstimate]:
    """Plan and cost estimate of a scan."""
    from entangle_cli.diagnose.scan.opening import open_scan

    with open_scan(model, data, settings, (observer or ScanObserver()).noticed) as ready:
        return ready.plan, ready.estimate()


def chosen_checkpoints(model: str, checkpoints: str | None) -> list[str]:
    """The selected checkpoints in a folder written by Trainer: `last`, `all`, or steps such as `100,200`.

    Raises:
        UsageError: the folder has no checkpoints, or not the selected ones.
    """
    from entangle_cli.diagnose.scan.series import chosen_checkpoints as chosen

    return [model] if checkpoints is None else [str(path) for path in chosen(model, checkpoints)]


def copy_sample(target: Path) -> tuple[Path, Path]:
    """Copy the package's sample model and pairs into a folder.

    Returns:
        The copies of the model and of the pairs with a long ending.
    Raises:
        UsageError: the folder cannot be written.
    """
    from entangle_cli.diagnose.sample import copy_sample as copy

    return copy(target)


def check_reference_target(data: str, settings: ScanSettings, target: Path) -> None:
    """Check before a scan that its data can be written with reference log-probs.

    Raises:
        UsageError: the target exists or does not fit the data, or the settings form several pairs per row.
        DataError: the data cannot be read.
    """
    from entangle_cli.diagnose.views.reference_columns import check_reference_target as check

    check(data, settings.reading, settings.limit, target)


def write_reference_columns(run: Run, data: str, target: Path) -> tuple[int, int]:
    """Write a run's data with reference log-probs under TRL's column names.

    Returns:
        Number of rows written, and of rows left out.
    Raises:
        UsageError: the run or the target does not fit.
        UnfinishedError: the target cannot be written.
    """
    from entangle_cli.diagnose.views.reference_columns import write_reference_columns as write

    return write(run, data, target)


def write_summary(run: Run) -> None:
    """Write the summary of a run into its folder.

    Raises:
        UnfinishedError: the summary cannot be written.
    """
    from entangle_cli.store.writing import write_summary as write

    assert run.folder is not None
    write(run.folder, run.summary)
