"""Paths as users write them, which may be anything."""

from __future__ import annotations

import os
from pathlib import Path

from entangle_cli.errors import EntangleError


def expanded(text: str) -> Path:
    """The path with the home folder in place of a tilde; as it stands where there is no such home."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 -- Path.expanduser raises for an unknown user


def is_there(path: Path) -> bool:
    """Whether there is something; a name that no file can have is not there."""
    return os.path.exists(path)  # noqa: PTH110 -- Path.exists raises for a name that is too long


def refuse_irregular(path: Path, error: type[EntangleError]) -> None:
    """Refuse a pipe, a device or a socket: reading one may never end.

    Raises:
        EntangleError: of the kind `error`; nothing is said of what is not there.
    """
    if is_there(path) and not is_folder(path) and not os.path.isfile(path):  # noqa: PTH113 -- as below
        raise error(
            f"{path}: a pipe, a device or a socket",
            "a regular file",
            "write what it holds to a file, or give - for standard input where DATA is meant",
        )


def is_folder(path: Path) -> bool:
    """Whether it is a folder."""
    return os.path.isdir(path)  # noqa: PTH112 -- as above
