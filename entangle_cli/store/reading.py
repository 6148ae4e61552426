"""Runs read back."""

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
    """The folder below `base` whose manifest was written last, of those that hold a measured pair.

    Returns:
        That folder, and the newer runs that were passed over because they hold none.
    Raises:
        RunError: no run below `base` holds a measured pair.
    """
    found = _runs(base)
    for place, folder in enumerate(found):
        if _holds_pair(folder):
            return folder, found[:place]
    empty = f"; {len(found)} without a measured pair" if found else ""
    raise RunError(
        f"no run below {base}{empty}", "a run written by entangle scan", "scan first, or name the run's folder"
    )


def _runs(base: Path) -> list[Path]:
    """The runs below a folder, the newest first."""
    manifests = sorted(base.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in manifests]


def _holds_pair(folder: Path) -> bool:
    """Whether a run that can be read has a measured pair; a damaged one is the caller's to complain of."""
    try:
        parts = read_manifest(folder)["parts"]
        tables = (read_part(folder / "pairs" / part["file"], ["status"]) for part in parts)
        return any(Status.OK.value in table["status"].to_pylist() for table in tables)
    except (RunError, OSError, pyarrow.ArrowException):
        return True


NUM_NAMED = 5


def _not_a_run(folder: Path) -> RunError:
    """What is said of a folder or a file that is no run, with those that are."""
    known = [str(path) for path in _runs(RUNS_FOLDER)[:NUM_NAMED]]
    remedy = f"name one of {', '.join(known)}" if known else "scan first: entangle scan MODEL DATA"
    if folder.is_file():
        return RunError(f"{folder}: a file, not a run", "a folder written by entangle scan", remedy)
    what = "no manifest.json" if folder.is_dir() else "no such folder"
    return RunError(f"{folder}: {what}", "a folder written by entangle scan", remedy)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
        RunError: no run there, or one that this version does not read.
    """
    path = folder / "manifest.json"
    if path.exists() and not path.is_file():
        raise RunError(f"{path}: no regular file", "a manifest written by entangle scan", "scan again")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_a_run(folder) from error
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise RunError(f"{path}: {reason}", "a manifest written by entangle scan", "scan again") from error
    version = str(manifest.get("schema_version", "")) if isinstance(manifest, dict) else ""
    if not version.startswith("1.") or manifest.get("schema") != SCHEMA:
        raise RunError(
            f"{path}: schema version {version or 'unknown'}",
            "entangle.run 1.x",
            "read it with the version that wrote it",
        )
    if (wrong := first_wrong(manifest)) is not None:
        raise RunError(f"{path}: {wrong}", "a manifest written by entangle scan", "scan again")
    return dict(manifest)


def read_run(folder: Path) -> Run:
    """A run with all its rows.

    Raises:
        RunError: no run, or damaged parts.
    """
    manifest = read_manifest(folder)
    for part in manifest["parts"]:
        if (damaged := damaged_file(folder, part)) is not None:
            raise RunError(
                f"{damaged}: missing or changed since it was written",
                "the bytes whose hash the manifest holds",
                "give the scan command again; it measures the missing rows anew",
            )
    tables = (checked_part(folder, part) for part in manifest["parts"])
    columns = _columns(tables, sum(part["rows"] for part in manifest["parts"]))
    return Run(folder, manifest, columns, LossSettings(**manifest["loss"]))


def checked_part(folder: Path, part: Mapping[str, Any]) -> pyarrow.Table:
    """The rows of a part, of the columns and types that are stored.

    Raises:
        RunError: unreadable, another number of rows than the manifest says, or columns of other types.
    """
    path = folder / "pairs" / part["file"]
    table = _read(path)
    if len(set(table.column_names)) < len(table.column_names):
        raise RunError(f"{path}: a column is there twice", "a part written by entangle scan", "scan again")
    if table.num_rows != part["rows"]:
        raise RunError(f"{path}: {table.num_rows:,} rows", f"{part['rows']:,}, as the manifest says", "scan again")
    if missing := {"index", "status", "pair_id"} - set(table.column_names):
        raise RunError(f"{path}: no {', '.join(sorted(missing))}", "a part written by entangle scan", "scan again")
    try:
        for name in set(table.column_names) & set(STORED_FIELDS):
            wanted = SCHEMA_OF_PARTS.field(name).type
            if pyarrow.types.is_string(wanted) and not pyarrow.types.is_string(table[name].type):
                raise pyarrow.ArrowInvalid(f"{name} is {table[name].type}")
            table[name].cast(wanted)
            if not pyarrow.types.is_string(wanted):
                table[name].cast(pyarrow.float64())  # whole numbers that a float cannot hold are refused
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
    """The layers of a run, part by part: `groups`, and three products as numpy arrays; nothing without `--layers`.

    The rows of a pair stand together, and the groups of every pair in the same order: `groups` names them once.

    Raises:
        RunError: a part that lacks a column.
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
    """Records as the columns of a `Run`, in the order of `index`."""
    return _columns([pair_table(records)], len(records))


def _columns(parts: Iterable[pyarrow.Table], num_rows: int) -> dict[str, Any]:
    """Columns as numpy arrays, in the order of `index`.

    One part at a time, and nothing for a column that holds no value, so that a large run is in memory once. Fields
    are added over time: what an older part lacks is null.
    """
    found: dict[str, Any] = {}
    seen: dict[str, dict[str, str]] = {name: {} for name in TEXT_FIELDS}
    start = 0
    for part in parts:
        rows = slice(start, start + part.num_rows)
        for name in STORED_FIELDS:
            if name not in part.column_names or part[name].null_count == part.num_rows:
                continue
            if name not in found:
                found[name] = _nothing(name, num_rows)
            found[name][rows] = texts(part[name], seen[name]) if name in TEXT_FIELDS else numbers(part[name])
        start = rows.stop
    order = np.lexsort([found.get(name, _nothing(name, num_rows)) for name in ("pair_in_row", "index")])
    columns = {name: found.pop(name)[order] if name in found else _nothing(name, num_rows) for name in STORED_FIELDS}
    columns["index"] = columns["index"].astype(np.int64)
    return columns


def _nothing(name: str, num_rows: int) -> Any:
    return np.full(num_rows, None, dtype=object) if name in TEXT_FIELDS else np.full(num_rows, np.nan)
