"""The data that a run was scanned from, opened again, and the run's numbers for its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from entangle_cli.data.rows import RowSource
from entangle_cli.data.sources import open_source
from entangle_cli.errors import UsageError
from entangle_cli.records.run import Run
from entangle_cli.records.settings import ReadingSettings


def reading_of_run(run: Run) -> ReadingSettings:
    """How the scan read its rows; a run keeps what was not the default."""
    settings = run.identity.settings
    names = (one.name for one in fields(ReadingSettings))
    return ReadingSettings(**{name: settings[name] for name in names if settings.get(name) is not None})


def data_of_run(run: Run, data: str) -> tuple[RowSource, int]:
    """The data set, and the run's index of its first row: a run of several data sets counts through.

    Raises:
        UsageError: the run was not scanned from this data set, or it changed since.
    """
    source = open_source(data, reading_of_run(run))
    measured = run.identity.data
    start = 0
    for part in measured.get("sources", [measured]):
        if _is_same(source.identity, part):
            return source, start
        start += part.get("rows") or 0
    raise UsageError(
        f"{data} is not the data of {run.place}, which measured {measured['name']}",
        "a data set that the run was scanned from, unchanged",
        "name that file, or scan this one",
    )


def _is_same(identity: Mapping[str, Any], measured: Mapping[str, Any]) -> bool:
    """Whether two identities are of the same rows, whatever they are called."""
    beside = {"name": None, "rows": None, "described": None, "read_as": None}
    return {**identity, **beside} == {**measured, **beside}


def rows_of_data(columns: Mapping[str, Any], start: int, indices: Sequence[int]) -> dict[str, Any]:
    """The run's rows of one data set, under their indices there.

    Args:
        start: the run's index of the data set's first row.
    """
    rows = np.isin(columns["index"] - start, np.asarray(indices))
    return {name: (column - start if name == "index" else column)[rows] for name, column in columns.items()}


def places_of(indices: Any) -> Callable[[int], int | None]:
    """A row's index to its place in the run; None where the run does not have it."""
    places = np.full(int(indices.max(initial=-1)) + 1, -1, dtype=np.int64)
    places[indices] = np.arange(len(indices))

    def place_of_row(row: int) -> int | None:
        return int(places[row]) if row < len(places) and places[row] >= 0 else None

    return place_of_row


def refuse_several_pairs(run: Run, columns: Mapping[str, Any]) -> None:
    """Refuse a run with several pairs per row, where a row has no single value.

    Raises:
        UsageError: it has such rows.
    """
    if not np.isnan(columns["pair_in_row"]).all():
        raise UsageError(
            f"{run.place}: rows with several pairs each",
            "a run with one pair per row, as --ranked best-worst gives",
            "scan again without --ranked adjacent or all",
        )
