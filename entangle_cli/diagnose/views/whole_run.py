"""Whether a run holds what it says: every selected row, each pair once; and how much of the data that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from entangle_cli.analysis.gate import Reduction, Scope
from entangle_cli.diagnose.selected_rows import selected_rows
from entangle_cli.errors import RunError
from entangle_cli.records.pair import Status
from entangle_cli.records.run import Run


def refuse_missing_rows(run: Run) -> None:
    """Refuse a complete run that lacks rows, or that has a pair twice.

    Raises:
        RunError: it does not hold every selected row, or holds rows that were not selected.
    """
    index = run.columns["index"]
    number = np.nan_to_num(run.columns["pair_in_row"], nan=-1.0)
    keys, counts = np.unique(np.stack([index, number]), axis=1, return_counts=True)
    if np.any(counts > 1):
        raise _unlike(run, f"row {int(keys[0][np.argmax(counts > 1)])} is there twice", "every pair once")
    if run.status != "complete" or run.identity.is_until_decided:
        return
    found = distinct(index)
    _refuse_claimed_rows(run, len(found))
    expected = _expected(run)
    if expected is None:
        return
    if isinstance(expected, int):
        if len(found) != expected:
            raise _unlike(run, f"{len(found):,} rows", f"{expected:,} rows, as its plan says")
        return
    missing = np.setdiff1d(expected, found, assume_unique=True)
    if len(missing):
        raise _unlike(run, f"{len(missing):,} rows are missing, the first row {missing[0]}", "every selected row")
    if len(found) > len(expected):
        raise _unlike(
            run,
            f"row {np.setdiff1d(found, expected, assume_unique=True)[0]} was not selected",
            "the selected rows alone",
        )


def distinct(values: Any) -> Any:
    """The distinct values of an array, sorted.

    Not by `np.unique`: it loads `numpy.ma`, which takes a tenth of a short command.
    """
    ordered = np.sort(values)
    return ordered[np.diff(ordered, prepend=ordered[:1] - 1) != 0]


MANY_ROWS = 10**8
"""More than any run of some hundred million pairs holds; their indices are not written out."""


def _refuse_claimed_rows(run: Run, num_found: int) -> None:
    """Refuse a claim of more rows than can be listed, before they are."""
    limit, sample, shard = (run.identity.settings.get(name) for name in ("limit", "sample", "shard"))
    wanted = min(number for number in (run.identity.num_rows or 0, limit, sample) if number is not None)
    wanted //= int(str(shard or "1/1").partition("/")[2])
    if num_found < wanted and wanted > MANY_ROWS:
        raise _unlike(run, f"{num_found:,} rows", f"{wanted:,} rows, as its manifest says")


def _expected(run: Run) -> Any:
    """The indices of the selected rows, or how many they are; None where neither is known."""
    data, num_rows, settings = run.identity.data, run.identity.num_rows, run.identity.settings
    if num_rows is None or data.keys() & {"slice", "joined", "probes"}:
        planned = run.manifest.get("plan", {}).get("num_selected")
        return planned if isinstance(planned, int) else None
    names = ("limit", "sample", "seed", "shard")
    limit, sample, seed, shard = (settings.get(name) for name in names)
    return np.array(selected_rows(range(num_rows), limit, sample, seed or 0, shard), dtype=np.int64)


def _unlike(run: Run, found: str, expected: str) -> RunError:
    return RunError(f"{run.place}: {found}", expected, "scan again into a new folder: -o FOLDER")


REDUCTIONS = ("limit", "sample", "shard")


def scope_of(run: Run, further: tuple[Reduction, ...] = (), elsewhere: Mapping[str, str] | None = None) -> Scope:
    """How many rows of the data a run holds, and what left out the others.

    Args:
        further: what leaves out pairs after the scan.
        elsewhere: options of the command that judges to where they were set, if not on its command line.
    """
    data, settings = run.identity.data, run.identity.settings
    options = run.manifest.get("configuration", {}).get("options", {})
    reductions = [
        Reduction(name, str(settings[name]), options.get(name)) for name in REDUCTIONS if settings.get(name) is not None
    ]
    if "slice" in data:
        reductions.append(Reduction("split", str(data["slice"]), options.get("split")))
    named = {reduction.option for reduction in (*reductions, *further)}
    at_scan = {name: where for name, where in options.items() if name not in named | {"fail-if"}}
    here = {name: where for name, where in (elsewhere or {}).items() if name not in named | {"fail-if"}}
    return Scope(
        rows_in_data=_rows_in_data(run),
        rows_read=len(distinct(run.columns["index"])),
        not_measured=int(np.count_nonzero(run.columns["status"] != Status.OK.value)),
        reductions=(*reductions, *further),
        set_elsewhere={**{f"{name} of the scan": where for name, where in at_scan.items()}, **here},
    )


def _rows_in_data(run: Run) -> int | None:
    """None where nobody counted them, as in a stream of the first rows."""
    num_rows = run.identity.num_rows
    if num_rows is None:
        return None
    planned = run.manifest.get("plan", {}).get("num_rows")
    return num_rows if "slice" in run.identity.data or not isinstance(planned, int) else planned
