"""Writing runs part by part. One process writes at a time, and an interrupted run can be continued."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Any

import filelock
import pyarrow

from entangle_cli.errors import UnfinishedError, UsageError
from entangle_cli.records.pair import LayerRecord, PairRecord, RowKey, row_key
from entangle_cli.records.run import SCHEMA, SCHEMA_VERSION, Identity
from entangle_cli.store.files import LOCK_FILE, damaged_file, locked, reporting_failures, uninterrupted, write_json
from entangle_cli.store.parts import layer_table, pair_table, read_part, write_table
from entangle_cli.store.reading import RUNS_FOLDER, read_manifest

OWN_NAMES = {"pairs", "layers", LOCK_FILE}
"""Names allowed in a folder that does not hold a run yet."""
PART_ROWS = 2000
PART_SECONDS = 20.0


class RunWriter:
    """Writes a new run or continues an existing one.

    A context manager. On exit the run becomes complete, or partial if an exception was raised.

    Attributes:
        folder: the run's folder.
        done: keys of all records stored or added so far.
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
    def open(cls, folder: Path, identity: Identity, about: Mapping[str, Any]) -> RunWriter:
        """Start a run in `folder`, or continue the existing one.

        Args:
            identity: an existing run must have the same identity.
            about: other manifest entries (plan, environment, ...).
        Raises:
            UsageError: the folder is not writable, holds a run with another identity or other files, or another
                process is writing to it.
            UnfinishedError: the manifest cannot be written, for example on a full disk.
        """
        _make_folder(folder)
        lock = locked(folder)
        try:
            return cls._begin(folder, identity, about, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _begin(
        cls, folder: Path, identity: Identity, about: Mapping[str, Any], lock: filelock.BaseFileLock
    ) -> RunWriter:
        before = read_manifest(folder) if (folder / "manifest.json").exists() else None
        if before is not None:
            _refuse_other_run(folder, Identity(before["identity"]), identity)
        parts = _intact_parts(folder, before["parts"]) if before else []
        manifest = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "status": "partial",
            "started": before["started"] if before else _now(),
            "identity": dict(identity.document),
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
    def num_done_rows(self) -> int:
        """Number of rows with a stored pair or skip reason."""
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
        """Add records and the layers of their pairs. A part is written after `PART_ROWS` rows or `PART_SECONDS`.

        Raises:
            UnfinishedError: the part cannot be written, for example on a full disk, or a pair was already added.
        """
        self._refuse_doubled(records)
        with uninterrupted():  # a pair and its layers belong in the same part
            self.done.update(map(row_key, records))
            self._pending.extend(records)
            self._pending_layers.extend(layers)
        if len(self._pending) >= PART_ROWS or time.monotonic() - self._last_part >= PART_SECONDS:
            self.flush()

    def _refuse_doubled(self, records: Sequence[PairRecord]) -> None:
        keys = [row_key(record) for record in records]
        if len(set(keys)) < len(keys) or not self.done.isdisjoint(keys):
            raise UnfinishedError(
                f"{self.folder}: a pair was measured twice",
                "every pair once",
                "report this bug with the command that you ran; the stored run has no duplicates",
            )

    def take_parts(self, parts: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """List parts that are already in the folder, for example copied from other runs."""
        self._manifest["parts"] = [*self._manifest["parts"], *parts]
        self._seconds_before += seconds

    def flush(self) -> None:
        """Write pending records as a part, then the manifest that lists it.

        Raises:
            UnfinishedError: the files cannot be written, for example on a full disk.
        """
        with uninterrupted(), reporting_failures(self.folder):
            if self._pending:
                self._write_part()
            self._write_manifest()
        self._last_part = time.monotonic()

    def _write_part(self) -> None:
        parts = self._manifest["parts"]
        file = f"part-{_next_number(parts):06d}.parquet"
        part = {"file": file, "rows": len(self._pending)}
        if self._pending_layers:
            part["layers_sha256"] = write_table(self.folder / "layers" / file, layer_table(self._pending_layers))
        part["sha256"] = write_table(self.folder / "pairs" / file, pair_table(self._pending))
        self._manifest["parts"] = [*parts, part]
        self._pending.clear()
        self._pending_layers.clear()

    def _write_manifest(self) -> None:
        self._manifest["updated"] = _now()
        self._manifest["seconds"] = self._seconds_before + time.monotonic() - self._started
        write_json(self.folder / "manifest.json", self._manifest)


def open_run(folder: Path | None, identity: Identity, about: Mapping[str, Any]) -> RunWriter:
    """Open the run in `folder`, or in its default folder below `entangle-runs/`. Raises as `RunWriter.open`."""
    return RunWriter.open(folder or default_folder(identity), identity, about)


def default_folder(identity: Identity) -> Path:
    """The folder of a run without --output. It depends on the identity, so the same command finds it again."""
    digest = hashlib.sha256(json.dumps(identity.document, sort_keys=True).encode()).hexdigest()[:8]
    model = identity.model_name.replace("/", "--")
    data = re.sub(r"[^\w.-]+", "_", Path(identity.data_name).stem)
    return RUNS_FOLDER / f"{model}-{data}-{digest}"


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write a run's aggregates.

    Raises:
        UnfinishedError: the file cannot be written, for example on a full disk.
    """
    with reporting_failures(folder):
        write_json(folder / "summary.json", summary)


def _make_folder(folder: Path) -> None:
    """Create a run's folder. Refuse an existing one that is neither empty nor a run."""
    try:
        is_run = (folder / "manifest.json").exists()
        if not is_run and folder.exists() and any(path.name not in OWN_NAMES for path in folder.iterdir()):
            raise UsageError(
                f"--output {folder}: the folder is not empty and is not a run",
                "a new or empty folder, or a run to continue",
                "choose another folder",
            )
        (folder / "pairs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--output {folder}: {error.strerror or error}", "a writable folder", "choose another folder"
        ) from error


def _keys(part: pyarrow.Table) -> Iterator[RowKey]:
    numbers = part["pair_in_row"].to_pylist() if "pair_in_row" in part.column_names else repeat(None)
    for index, number in zip(part["index"].to_pylist(), numbers, strict=False):
        yield index if number is None else (index, number)


def _next_number(parts: Sequence[Mapping[str, Any]]) -> int:
    return max((int(part["file"].removeprefix("part-").removesuffix(".parquet")) for part in parts), default=-1) + 1


def _refuse_other_run(folder: Path, before: Identity, identity: Identity) -> None:
    if different := before.difference_words(identity):
        raise UsageError(
            f"--output {folder}: holds a run with a different {', '.join(different)}",
            "a run of the same model, data and settings, or an empty folder",
            "choose another folder; runs are never mixed",
        )


def _intact_parts(folder: Path, parts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The parts with unchanged files. The rows of the others are measured again."""
    return [part for part in parts if damaged_file(folder, part) is None]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
