"""Reading runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from entangle_cli.errors import RunError, is_out_of_memory, out_of_memory
from entangle_cli.records.pair import PairRecord, Status
from entangle_cli.records.run import SCHEMA, Run
from entangle_cli.records.settings import LossSettings
from entangle_cli.store.files import damaged_file
from entangle_cli.store.manifest import first_wrong
from entangle_cli.store.parts import (
    LAYER_NUMBERS,
    SCHEMA_OF_LAYERS,
    SCHEMA_OF_PARTS,
    STORED_FIELDS,
    TEXT_FIELDS,
    numbers,
    pair_table,
    read_part,
    texts,
)

RUNS_FOLDER = Path("entangle-runs")


def newest_run(base: Path = RUNS_FOLDER) -> tuple[Path, list[Path]]:
    """Find the newest run below `base` that has a measured pair, by the time of its manifest.

    Returns:
        The run's folder, and the folders of newer runs without a measured pair.
    Raises:
        RunError: no run below `base` has a measured pair.
    """
    runs = runs_in(base)
    for position, folder in enumerate(runs):
        if _holds_pair(folder):
            return folder, runs[:position]
    empty = f"; {len(runs)} without a measured pair" if runs else ""
    raise RunError(
        f"no run below {base}{empty}",
        "a run written by entangle scan",
        "run entangle scan first, or give the run's folder: entangle report FOLDER",
    )


def runs_in(base: Path) -> list[Path]:
    """The folders of the runs below a folder, newest first."""
    manifests = sorted(base.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in manifests]


def _holds_pair(folder: Path) -> bool:
    """Whether a run has a measured pair. True for a damaged run, so the caller reports the damage."""
    try:
        parts = read_manifest(folder)["parts"]
        tables = (read_part(folder / "pairs" / part["file"], ["status"]) for part in parts)
        return any(Status.OK.value in table["status"].to_pylist() for table in tables)
    except (RunError, OSError, pyarrow.ArrowException):
        return True


NUM_NAMED = 5


def _not_a_run(folder: Path) -> RunError:
    """The error for a folder or file that is not a run. It suggests existing runs."""
    known = [str(path) for path in runs_in(RUNS_FOLDER)[:NUM_NAMED]]
    remedy = f"use one of {', '.join(known)}" if known else "scan first: entangle scan MODEL DATA"
    if folder.is_file():
        return RunError(f"{folder}: a file, not a run", "a folder written by entangle scan", remedy)
    problem = "no manifest.json" if folder.is_dir() else "no such folder"
    return RunError(f"{folder}: {problem}", "a folder written by entangle scan", remedy)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a run.

    Raises:
        RunError: the folder is not a run, or this version cannot read it.
    """
    path = folder / "manifest.json"
    if path.exists() and not path.is_file():
        raise RunError(f"{path}: not a regular file", "a manifest written by entangle scan", "scan again")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_a_run(folder) from error
    except json.JSONDecodeError as error:
        reason = f"broken JSON at line {error.lineno}, column {error.colno}" if error.doc.strip() else "an empty file"
        raise RunError(f"{path}: {reason}", "a manifest written by entangle scan", "scan again") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RunError(f"{path}: {reason}", "a manifest written by entangle scan", "scan again") from error
    version = str(manifest.get("schema_version", "")) if isinstance(manifest, dict) else ""
    if not version.startswith("1.") or manifest.get("schema") != SCHEMA:
        raise RunError(
            f"{path}: schema version {version or 'unknown'}",
            "entangle.run 1.x",
            "use the version of entangle that wrote it",
        )
    if (wrong := first_wrong(manifest)) is not None:
        raise RunError(f"{path}: {wrong}", "a manifest written by entangle scan", "scan again")
    return dict(manifest)


def read_run(folder: Path) -> Run:
    """Read a run with all its rows.

    Raises:
        RunError: the folder is not a run, or a part is damaged.
    """
    manifest = read_manifest(folder)
    for part in manifest["parts"]:
        if (damaged := damaged_file(folder, part)) is not None:
            raise RunError(
                f"{damaged}: missing or changed since it was written",
                "the file whose hash is in the manifest",
                "rerun the scan command; it measures the missing rows again",
            )
    tables = (checked_part(folder, part) for part in manifest["parts"])
    columns = _columns(tables, sum(part["rows"] for part in manifest["parts"]))
    return Run(folder, manifest, columns, LossSettings(**manifest["loss"]))


def checked_part(folder: Path, part: Mapping[str, Any]) -> pyarrow.Table:
    """Read a part and check its columns and types.

    Raises:
        RunError: the part cannot be read, its number of rows differs from the manifest, or a column has a wrong type.
    """
    path = folder / "pairs" / part["file"]
    table = _read(path)
    if len(set(table.column_names)) < len(table.column_names):
        raise RunError(f"{path}: a duplicate column", "a part written by entangle scan", "scan again")
    if table.num_rows != part["rows"]:
        raise RunError(f"{path}: {table.num_rows:,} rows", f"{part['rows']:,} rows as in the manifest", "scan again")
    if missing := {"index", "status", "pair_id"} - set(table.column_names):
        raise RunError(f"{path}: no {', '.join(sorted(missing))}", "a part written by entangle scan", "scan again")
    try:
        for name in set(table.column_names) & set(STORED_FIELDS):
            wanted = SCHEMA_OF_PARTS.field(name).type
            if pyarrow.types.is_string(wanted) and not pyarrow.types.is_string(table[name].type):
                raise pyarrow.ArrowInvalid(f"{name} is {table[name].type}")
            table[name].cast(wanted)
            if not pyarrow.types.is_string(wanted):
                table[name].cast(pyarrow.float64())  # reject integers that a float cannot represent
        if table["index"].null_count or table["status"].null_count:
            raise pyarrow.ArrowInvalid("a row without index or status")
        if table.num_rows and numbers(table["index"]).min() < 0:
            raise pyarrow.ArrowInvalid("a negative index")
    except pyarrow.ArrowException as error:
        raise RunError(f"{path}: {error}", "a part written by entangle scan", "scan again") from error
    return table


def _read(path: Path) -> pyarrow.Table:
    try:
        return read_part(path)
    except (OSError, MemoryError, pyarrow.ArrowException) as error:
        if is_out_of_memory(error):
            raise out_of_memory() from error
        raise RunError(f"{path}: {error}", "a part written by entangle scan", "scan again") from error


def read_layers(run: Run) -> Iterator[dict[str, Any]]:
    """Read a run's layers, one part at a time; empty for a run without `--layers`.

    The rows of a pair are adjacent, and every pair has its groups in the same order.

    Yields:
        `groups`, the group names of one pair, and the three products as numpy arrays.
    Raises:
        RunError: a part lacks a column.
    """
    for part in run.manifest["parts"]:
        if run.folder is not None and "layers_sha256" in part:
            table = _read(run.folder / "layers" / part["file"])
            if missing := set(SCHEMA_OF_LAYERS.names) - set(table.column_names):
                raise RunError(
                    f"{run.folder / 'layers' / part['file']}: no {', '.join(sorted(missing))}",
                    "layers written by entangle scan",
                    "scan again",
                )
            codes = table["group"].combine_chunks()
            names = codes.dictionary.to_pylist()
            order = codes.indices[: len(names)].to_pylist()
            products = {name: numbers(table[name]) for name in LAYER_NUMBERS}
            yield {"groups": [names[code] for code in order], **products}


def columns_of(records: Sequence[PairRecord]) -> dict[str, Any]:
    """Convert records to the columns of a `Run`, ordered by `index`."""
    return _columns([pair_table(records)], len(records))


def _columns(parts: Iterable[pyarrow.Table], num_rows: int) -> dict[str, Any]:
    """Columns as numpy arrays, ordered by `index`.

    Parts are read one at a time and empty columns are skipped, so a large run is in memory only once. Fields that an
    older part lacks are null.
    """
    filled: dict[str, Any] = {}
    seen: dict[str, dict[str, str]] = {name: {} for name in TEXT_FIELDS}
    start = 0
    for part in parts:
        rows = slice(start, start + part.num_rows)
        for name in STORED_FIELDS:
            if name not in part.column_names or part[name].null_count == part.num_rows:
                continue
            if name not in filled:
                filled[name] = _nulls(name, num_rows)
            filled[name][rows] = texts(part[name], seen[name]) if name in TEXT_FIELDS else numbers(part[name])
        start = rows.stop
    order = np.lexsort([filled.get(name, _nulls(name, num_rows)) for name in ("pair_in_row", "index")])
    columns = {name: filled.pop(name)[order] if name in filled else _nulls(name, num_rows) for name in STORED_FIELDS}
    columns["index"] = columns["index"].astype(np.int64)
    return columns


def _nulls(name: str, num_rows: int) -> Any:
    return np.full(num_rows, None, dtype=object) if name in TEXT_FIELDS else np.full(num_rows, np.nan)
