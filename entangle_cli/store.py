"""A run on disk: a manifest, and parts of rows that are written once and never changed.

    RUN/manifest.json            identity, plan, environment, status, list of parts with their hashes
    RUN/pairs/part-000000.parquet
    RUN/layers/part-000000.parquet   with --layers: of each pair and parameter group squared norms and inner product
    RUN/summary.json             aggregates

Every file is written under a temporary name and renamed, so that a file that exists is whole. Only parts that
the manifest lists count.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, timezone
from itertools import repeat
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pyarrow
import pyarrow.parquet

from entangle_cli.errors import RunError, UnfinishedError, UsageError
from entangle_cli.records import COUNT_FIELDS, SCHEMA, SCHEMA_VERSION, LayerRecord, PairRecord, RowKey, Run, row_key

RUNS_FOLDER = Path("entangle-runs")
LOCK_FILE = ".lock"
OWN_NAMES = {"pairs", "layers", LOCK_FILE}
"""What a folder may hold in which no run has begun."""
PART_ROWS = 2000
PART_SECONDS = 20.0

_LOSS_FIELDS = {"movement", "chosen_delta", "rejected_delta", "slack", "uncertain"}
_TEXT_FIELDS = {
    "pair_id",
    "status",
    "reason",
    "detail",
    "format",
    "file",
    "warnings",
    "unordered_id",
    "prompt_text",
    "chosen_text",
    "rejected_text",
}
_FLAG_FIELDS = {"boundary_moved", "chosen_truncated", "rejected_truncated"}


def _arrow_type(name: str) -> pyarrow.DataType:
    if name in _TEXT_FIELDS:
        return pyarrow.string()
    if name in _FLAG_FIELDS:
        return pyarrow.bool_()
    return pyarrow.int64() if name in COUNT_FIELDS else pyarrow.float64()


STORED_FIELDS = tuple(field.name for field in fields(PairRecord) if field.name not in _LOSS_FIELDS)
"""What is measured. What a loss makes of it is computed when a run is read."""

LAYER_NUMBERS = ("chosen_squared_norm", "rejected_squared_norm", "inner_product")
SCHEMA_OF_LAYERS = pyarrow.schema(
    [
        ("index", pyarrow.int64()),
        ("pair_in_row", pyarrow.int64()),
        ("group", pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
        *((name, pyarrow.float64()) for name in LAYER_NUMBERS),
    ]
)

SCHEMA_OF_PARTS = pyarrow.schema([(name, _arrow_type(name)) for name in STORED_FIELDS])


class RunWriter:
    """A run that is being written, or that goes on.

    A context manager: on leaving, the run is complete, or partial where an exception ends it.

    Attributes:
        folder: where it is.
        done: keys of the records it already holds.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], done: set[RowKey], lock: filelock.BaseFileLock) -> None:
        self.folder = folder
        self._lock = lock
        self.done = done
        self._manifest = manifest
        self._pending: list[PairRecord] = []
        self._pending_layers: list[LayerRecord] = []
        self._last_part = time.monotonic()
        self._started = time.monotonic()
        self._seconds_before = float(manifest.get("seconds", 0.0))

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any], about: Mapping[str, Any]) -> RunWriter:
        """Begin a run in `folder`, or go on with the one that is there.

        Args:
            identity: what must be equal for a run to go on.
            about: further entries of the manifest (plan, environment, ...).
        Raises:
            UsageError: the folder cannot be written, holds a run of another identity or something else, or another
                process is writing to it.
            UnfinishedError: there is no room for the manifest.
        """
        _make_folder(folder)
        lock = _locked(folder)
        try:
            return cls._begin(folder, identity, about, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _begin(
        cls, folder: Path, identity: Mapping[str, Any], about: Mapping[str, Any], lock: filelock.BaseFileLock
    ) -> RunWriter:
        before = read_manifest(folder) if (folder / "manifest.json").exists() else None
        if before is not None:
            _refuse_other_run(folder, before["identity"], identity)
        parts = _intact_parts(folder, before["parts"]) if before else []
        manifest = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "status": "partial",
            "started": before["started"] if before else _now(),
            "identity": dict(identity),
            **about,
            "seconds": before["seconds"] if before else 0.0,
            "parts": parts,
        }
        done: set[RowKey] = set()
        for part in parts:
            done.update(_keys(read_part(folder / "pairs" / part["file"], ["index", "pair_in_row"])))
        writer = cls(folder, manifest, done, lock)
        writer.flush()
        return writer

    @property
    def num_pairs(self) -> int:
        """Records that it took, those that are not in a part yet among them."""
        return len(self.done) + len(self._pending)

    @property
    def num_done_rows(self) -> int:
        """Rows of which it holds a pair or a reason."""
        return sum(isinstance(key, int) or key[1] == 0 for key in self.done)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        self._manifest["status"] = "complete" if kind is None else "partial"
        try:
            self.flush()
        finally:
            self._lock.release()

    def add(self, records: Sequence[PairRecord], layers: Sequence[LayerRecord] = ()) -> None:
        """Take records, and the layers of their pairs; every so often they become a part.

        Raises:
            UnfinishedError: the part cannot be written, as on a full disk.
        """
        self._pending.extend(records)
        self._pending_layers.extend(layers)
        if len(self._pending) >= PART_ROWS or time.monotonic() - self._last_part >= PART_SECONDS:
            self.flush()

    def take_parts(self, parts: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """List parts that are in the folder already, as those of other runs that were copied there."""
        self._manifest["parts"] = [*self._manifest["parts"], *parts]
        self._seconds_before += seconds

    def flush(self) -> None:
        """Write what is pending as a part, and the manifest that lists it.

        Raises:
            UnfinishedError: see `add`.
        """
        with _writing(self.folder):
            if self._pending:
                self._write_part()
            self._write_manifest()
        self._last_part = time.monotonic()

    def _write_part(self) -> None:
        parts = self._manifest["parts"]
        file = f"part-{_next_number(parts):06d}.parquet"
        part = {"file": file, "rows": len(self._pending)}
        if self._pending_layers:
            part["layers_sha256"] = _write_table(self.folder / "layers" / file, _layer_table(self._pending_layers))
        part["sha256"] = _write_table(self.folder / "pairs" / file, _table(self._pending))
        self._manifest["parts"] = [*parts, part]
        self.done.update(map(row_key, self._pending))
        self._pending.clear()
        self._pending_layers.clear()

    def _write_manifest(self) -> None:
        self._manifest["updated"] = _now()
        self._manifest["seconds"] = self._seconds_before + time.monotonic() - self._started
        write_json(self.folder / "manifest.json", self._manifest)


def _write_table(path: Path, table: pyarrow.Table) -> str:
    """Write a part; the hash of its bytes."""
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def _layer_table(records: Sequence[LayerRecord]) -> pyarrow.Table:
    columns: dict[str, Any] = {
        "index": [record.index for record in records],
        "pair_in_row": [record.pair_in_row for record in records],
        "group": pyarrow.array([record.products.group for record in records]).dictionary_encode(),
        **{name: [getattr(record.products, name) for record in records] for name in LAYER_NUMBERS},
    }
    return pyarrow.Table.from_pydict(columns, schema=SCHEMA_OF_LAYERS)


def _make_folder(folder: Path) -> None:
    """Make a run's folder, or see that what is there is a run or nothing."""
    try:
        is_run = (folder / "manifest.json").exists()
        if not is_run and folder.exists() and any(path.name not in OWN_NAMES for path in folder.iterdir()):
            raise UsageError(
                f"--output {folder}: the folder is not empty and holds no run",
                "an empty or new folder, or a run to go on with",
                "name another folder",
            )
        (folder / "pairs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--output {folder}: {error.strerror or error}", "a folder that can be written", "name another folder"
        ) from error


def _locked(folder: Path) -> filelock.BaseFileLock:
    """The lock of a run; the system lets go of it when its process ends, however it ends."""
    lock = filelock.FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UsageError(
            f"--output {folder}: another process is writing this run",
            "one process a run",
            "wait for it, stop it, or name another folder",
        ) from error
    except OSError as error:
        raise UnfinishedError(
            f"--output {folder}: {error.strerror or error}", "room for the run's lock", "make room, then try again"
        ) from error
    return lock


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Errors of the file system as ours."""
    try:
        yield
    except OSError as error:
        raise UnfinishedError(
            f"{folder}: {error.strerror or error}",
            "room and permission to write the run",
            "make room and give the same command again; it goes on from the last part",
        ) from error


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write a run's aggregates.

    Raises:
        UnfinishedError: they cannot be written, as on a full disk.
    """
    with _writing(folder):
        write_json(folder / "summary.json", summary)


def open_run(folder: Path | None, identity: Mapping[str, Any], about: Mapping[str, Any]) -> RunWriter:
    """The run in `folder`, or in a folder below `entangle-runs/` that the same command finds again."""
    return RunWriter.open(folder or default_folder(identity), identity, about)


def columns_of(records: Sequence[PairRecord]) -> dict[str, Any]:
    """Records as the columns of a `Run`, in the order of `index`."""
    return _columns(_table(records))


def _table(records: Sequence[PairRecord]) -> pyarrow.Table:
    columns = {name: [getattr(record, name) for record in records] for name in STORED_FIELDS}
    for name in _TEXT_FIELDS:
        columns[name] = [text if text is None else _encodable(text) for text in columns[name]]
    return pyarrow.Table.from_pydict(columns, schema=SCHEMA_OF_PARTS)


def _encodable(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate, as JSON may have it, becomes its code."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _keys(part: pyarrow.Table) -> Iterator[RowKey]:
    numbers = part["pair_in_row"].to_pylist() if "pair_in_row" in part.column_names else repeat(None)
    for index, number in zip(part["index"].to_pylist(), numbers, strict=False):
        yield index if number is None else (index, number)


def _next_number(parts: Sequence[Mapping[str, Any]]) -> int:
    return max((int(part["file"][5:11]) for part in parts), default=-1) + 1


def _refuse_other_run(folder: Path, before: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    different = [f"{group} {name}" for group in identity for name in _differences(before.get(group), identity[group])]
    if different:
        raise UsageError(
            f"--output {folder}: holds a run with another {', '.join(different)}",
            "a run of the same model, data and settings, or an empty folder",
            "name another folder; runs are never mixed",
        )


def _differences(before: Any, now: Any) -> list[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return [] if before == now else ["value"]


def _intact_parts(folder: Path, parts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The parts whose bytes are what was written; the rows of others are measured again."""
    return [part for part in parts if damaged_file(folder, part) is None]


def damaged_file(folder: Path, part: Mapping[str, Any]) -> Path | None:
    """The first file of a part of a run that is not as it was written; None where all are."""
    for kind, sha256 in (("pairs", part["sha256"]), ("layers", part.get("layers_sha256"))):
        if sha256 is not None and not _is_intact(folder / kind / part["file"], sha256):
            return folder / kind / str(part["file"])
    return None


def _is_intact(path: Path, sha256: str) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power loss."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document, readable and without NaN."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    # A lone surrogate as its escape, which JSON reads back.
    write_atomically(path, text.encode("utf-8", "backslashreplace") + b"\n")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
        RunError: there is none, or it is none that this version reads.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{folder}: no manifest.json", "a folder written by entangle scan", "check the path") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: {error}", "a manifest written by entangle scan", "scan again") from error
    version = str(manifest.get("schema_version", "")) if isinstance(manifest, dict) else ""
    if not version.startswith("1.") or manifest.get("schema") != SCHEMA:
        raise RunError(
            f"{path}: schema version {version or 'unknown'}",
            "entangle.run 1.x",
            "read it with the version that wrote it",
        )
    return dict(manifest)


def read_run(folder: Path) -> Run:
    """A run with all its rows.

    Raises:
        RunError: no run, or damaged parts.
    """
    manifest = read_manifest(folder)
    tables = []
    for part in manifest["parts"]:
        if (damaged := damaged_file(folder, part)) is not None:
            raise RunError(
                f"{damaged}: missing or changed since it was written",
                "the bytes whose hash the manifest holds",
                "give the scan command again; it measures the missing rows anew",
            )
        tables.append(read_part(folder / "pairs" / part["file"]))
    # Fields are added over time: what an older part lacks is null.
    table = pyarrow.concat_tables([SCHEMA_OF_PARTS.empty_table(), *tables], promote_options="default")
    return Run(folder, manifest, _columns(table))


def read_layers(run: Run) -> Iterator[dict[str, Any]]:
    """The layers of a run, part by part: `groups`, and three products as numpy arrays; nothing without `--layers`.

    The rows of a pair stand together, and the groups of every pair in the same order: `groups` names them once.

    Raises:
        RunError: a part that lacks a column.
    """
    for part in run.manifest["parts"]:
        if "layers_sha256" in part:
            table = read_part(run.folder / "layers" / part["file"])
            if missing := set(SCHEMA_OF_LAYERS.names) - set(table.column_names):
                raise RunError(
                    f"{run.folder / 'layers' / part['file']}: no {', '.join(sorted(missing))}",
                    "layers written by entangle scan",
                    "scan again",
                )
            codes = table["group"].combine_chunks()
            names = codes.dictionary.to_pylist()
            order = codes.indices[: len(names)].to_pylist()
            numbers = {name: _numbers(table[name]) for name in LAYER_NUMBERS}
            yield {"groups": [names[code] for code in order], **numbers}


def read_part(path: Path, names: list[str] | None = None) -> pyarrow.Table:
    """The rows of one part, all columns or those of some names that it has.

    Not `pyarrow.parquet.read_table`, which loads pandas: that alone takes longer than reading a small run.
    """
    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read(names if names is None else [name for name in names if name in file.schema_arrow.names])


def _columns(table: pyarrow.Table) -> dict[str, Any]:
    """Columns as numpy arrays, in the order of `index`."""
    order = np.lexsort((_numbers(table["pair_in_row"]), _numbers(table["index"])))
    columns: dict[str, Any] = {}
    for name in STORED_FIELDS:
        column = table[name]
        is_text = name in _TEXT_FIELDS
        values = np.array(column.to_pylist(), dtype=object) if is_text else _numbers(column)
        columns[name] = values[order]
    columns["index"] = columns["index"].astype(np.int64)
    return columns


def _numbers(column: pyarrow.ChunkedArray) -> Any:
    """A column as float64 with NaN for null.

    By DLPack and with a scalar made from bytes: `to_numpy` and `pyarrow.scalar` load pandas, where that is installed.
    """
    nan = pyarrow.Array.from_buffers(pyarrow.float64(), 1, [None, pyarrow.py_buffer(np.array([np.nan]))])[0]
    return np.from_dlpack(column.cast(pyarrow.float64()).fill_null(nan).combine_chunks())


def newest_run(base: Path = RUNS_FOLDER) -> Path:
    """The folder below `base` whose manifest was written last.

    Raises:
        RunError: there is none.
    """
    manifests = sorted(base.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if not manifests:
        raise RunError(f"no run below {base}", "a run written by entangle scan", "scan first, or name the run's folder")
    return manifests[-1].parent


def default_folder(identity: Mapping[str, Any]) -> Path:
    """The folder of a run that was given none: the same command finds it again."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    model = str(identity["model"]["name"]).replace("/", "--")
    data = re.sub(r"[^\w.-]+", "_", Path(identity["data"]["name"]).stem)
    return RUNS_FOLDER / f"{model}-{data}-{digest}"
