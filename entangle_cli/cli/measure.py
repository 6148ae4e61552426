"""From a model and data to a run that holds every pair: alone, as rank 0 of several processes, or for rank 0."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from entangle_cli.analysis.sequential import Decision
from entangle_cli.cli.deadline import Deadline
from entangle_cli.cli.progress import progress
from entangle_cli.cli.tell import tell
from entangle_cli.diagnose.processes.ranks import Further, Ranks
from entangle_cli.diagnose.scan.scan import Scan, open_scan
from entangle_cli.diagnose.scan.until_decided import measure_until_decided, rounds
from entangle_cli.records import RecordBatch, ScanSettings
from entangle_cli.report.terminal import console_for, plan_lines
from entangle_cli.store.files import uninterrupted
from entangle_cli.store.reading import read_run
from entangle_cli.store.writing import RunWriter, open_run


def print_estimate(model: str, data: Sequence[str], settings: ScanSettings, ranks: Ranks) -> None:
    """Print what a scan would do and take."""
    with open_scan(model, data, settings, ranks) as ready:
        if ranks.rank == 0:
            console_for(sys.stdout).print(plan_lines(ready.plan, ready.estimate()))


def scan_into_run(
    model: str,
    data: Sequence[str],
    settings: ScanSettings,
    output: Path | None,
    known: Path | None,
    deadline: Deadline,
    ranks: Ranks,
    about: Mapping[str, Any],
    *,
    quiet: bool,
) -> tuple[Path, Decision | None]:
    """Measure what the run does not hold yet; the run's folder, and what was decided where that ends the scan.

    Args:
        about: further entries of the manifest.
    """
    with open_scan(model, data, settings, ranks) as ready:
        _agree(ready, known)
        if not quiet:
            console_for(sys.stderr).print(plan_lines(ready.plan))
        writer = open_run(output, ready.identity, {**ready.about, **about})
        if not quiet:
            again = f", goes on after {len(writer.done):,} pairs" if writer.done else ""
            tell(f"{writer.folder}{again}", prefix="run         ")
        return writer.folder, _measure_all(ready, writer, settings, deadline, quiet=quiet)


def _measure_all(
    ready: Scan, writer: RunWriter, settings: ScanSettings, deadline: Deadline, *, quiet: bool
) -> Decision | None:
    """Measure and write; whatever ends it early leaves a run that can be read and gone on with."""
    ready.ranks.share_done(writer.done)
    try:
        with writer, progress(ready.plan.num_selected, writer.num_done_rows, quiet=quiet) as advance:

            def take(batch: RecordBatch) -> None:
                writer.add(batch.pairs, batch.layers)
                advance(num_rows=sum(not record.pair_in_row for record in batch.pairs))
                deadline.check(len(writer.done))

            def columns_so_far() -> Mapping[str, Any]:
                writer.flush()
                return read_run(writer.folder).columns

            done = frozenset(writer.done)
            if settings.until_decided is not None:
                decision = measure_until_decided(ready, settings.until_decided, settings, done, take, columns_so_far)
                ready.reader.refuse_changed()
                return decision
            for batch in ready.ranks.gather(ready.records(done)):
                take(batch)
            ready.ranks.end_round(is_last=True)
            ready.refuse_other_data(writer.num_done_rows)
    except KeyboardInterrupt:
        with uninterrupted():
            tell(
                f"{len(writer.done):,} pairs of {ready.plan.num_selected:,} rows are in {writer.folder}; "
                "the same command goes on from there",
                prefix="interrupted: ",
            )
        raise
    return None


def measure_for_first(
    model: str, data: Sequence[str], settings: ScanSettings, known: Path | None, rank: Further
) -> None:
    """Measure a share of the batches for rank 0, which writes and reports."""
    with open_scan(model, data, settings, rank) as ready:
        _agree(ready, known)
        done = rank.done()
        for rows in rounds(ready.reader.in_random_order()) if settings.until_decided else [None]:
            for batch in ready.records(done, rows):
                rank.send(batch)
            if not rank.next_round():
                return


def _agree(ready: Scan, known: Path | None) -> None:
    """Take the pairs that are known, and see that all processes take the same."""
    if known is not None:
        ready.take_known(read_run(known))
    ready.ranks.agree({**ready.identity, "known pairs": ready.known_identity})
