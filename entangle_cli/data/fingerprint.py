"""File hashes for a run's identity, and detection of later changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from entangle_cli.errors import EntangleError

READ_BYTES = 2**20

Stamp = tuple[int, ...]
"""Device, inode, size, mtime and ctime of a file. Programs cannot set the ctime."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A file with its hash and stamp."""

    path: Path
    sha256: str
    """Hash of its bytes, hexadecimal."""
    stamp: Stamp
    """Stamp taken before hashing."""


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file. It differs after a change and after a replacement."""
    status = os.stat(path)  # noqa: PTH116 -- Path.stat does the same
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def fingerprint(path: Path) -> Fingerprint:
    """Hash a file in pieces."""
    stamp = stamp_of(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return Fingerprint(path, digest.hexdigest(), stamp)


def refuse_changed(files: Iterable[Fingerprint], error: type[EntangleError]) -> None:
    """Refuse files that changed after they were hashed.

    Raises:
        EntangleError: a file changed; the exception type is `error`.
    """
    for file in files:
        try:
            is_same = stamp_of(file.path) == file.stamp
        except OSError:
            is_same = False
        if not is_same:
            raise error(
                f"{file.path}: changed while it was in use",
                "a file that does not change during the command",
                "rerun the command while nothing else writes to the file",
            )
