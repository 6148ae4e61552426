"""The data that a run was scanned from, opened again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

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
    beside = {"name": None, "rows": None, "described": None}
    return {**identity, **beside} == {**measured, **beside}
