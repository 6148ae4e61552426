"""Writing files atomically and checking their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from entangle_cli.errors import UnfinishedError, UsageError

LOCK_FILE = ".lock"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, even across a power loss."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the block is finished, then handle them as usual.

    Slurm and containers may send a second signal while a process is still saving.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in handlers:
        signal.signal(number, lambda caught_number, _: caught.append(caught_number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if caught:
        signal.raise_signal(caught[0])


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write an indented JSON document. NaN is not allowed."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    # Escape lone surrogates, so JSON can read them back.
    write_atomically(path, text.encode("utf-8", "backslashreplace") + b"\n")


@contextmanager
def reporting_failures(folder: Path) -> Iterator[None]:
    """Convert file system errors to UnfinishedError."""
    try:
        yield
    except OSError as error:
        raise UnfinishedError(
            f"{folder}: {error.strerror or error}",
            "space and permission to write the run",
            "free some space and rerun the same command; it continues from the last part",
        ) from error


def damaged_file(folder: Path, part: Mapping[str, Any]) -> Path | None:
    """The first file of a run's part that is missing or changed; None if all are intact."""
    for kind, sha256 in (("pairs", part["sha256"]), ("layers", part.get("layers_sha256"))):
        if sha256 is not None and not _is_intact(folder / kind / part["file"], sha256):
            return folder / kind / str(part["file"])
    return None


def _is_intact(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def locked(folder: Path) -> filelock.BaseFileLock:
    """Acquire the lock of a run or a rehearsal. The system releases it when the process ends for any reason.

    Raises:
        UsageError: another process holds it.
        UnfinishedError: the lock file cannot be created.
    """
    lock = filelock.FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UsageError(
            f"--output {folder}: another process is writing there",
            "one process per folder",
            "wait for it, stop it, or choose another folder",
        ) from error
    except OSError as error:
        raise UnfinishedError(
            f"--output {folder}: {error.strerror or error}",
            "space and permission to create the lock file",
            "free some space or check the permissions, then rerun the command",
        ) from error
    return lock
