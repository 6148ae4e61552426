"""What a file held when it was read: its hash for the run's identity, and whether it is still the same file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from entangle_cli.errors import EntangleError

READ_BYTES = 2**20

Stamp = tuple[int, ...]
"""Device, inode, size and times of a file. The last time is the system's own, which no program can set."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A file and what it held."""

    path: Path
    sha256: str
    """Of its bytes, hexadecimal."""
    stamp: Stamp
    """From before it was hashed."""


def stamp_of(path: Path) -> Stamp:
    """What tells a file from one that replaced it, and from itself after a change."""
    found = os.stat(path)  # noqa: PTH116 -- Path.stat does the same
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def fingerprint(path: Path) -> Fingerprint:
    """Hash a file, a piece at a time."""
    stamp = stamp_of(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return Fingerprint(path, digest.hexdigest(), stamp)


def refuse_changed(files: Iterable[Fingerprint], error: type[EntangleError]) -> None:
    """Refuse files that are no longer those that were hashed.

    Raises:
        EntangleError: of the kind `error`.
    """
    for file in files:
        try:
            is_same = stamp_of(file.path) == file.stamp
        except OSError:
            is_same = False
        if not is_same:
            raise error(
                f"{file.path}: changed while it was in use",
                "the bytes whose hash the run holds, from the beginning to the end",
                "give the command again when nothing else writes to it",
            )
