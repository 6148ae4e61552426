"""Helpers for paths given by users. Such paths may be invalid."""

from __future__ import annotations

import os
from pathlib import Path

from entangle_cli.errors import EntangleError


def expanded(text: str) -> Path:
    """Expand a leading tilde to the home folder. The path stays unchanged if that user does not exist."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 -- Path.expanduser raises for an unknown user


def is_there(path: Path) -> bool:
    """Whether a path exists. False for names that no file can have."""
    return os.path.exists(path)  # noqa: PTH110 -- Path.exists raises for a name that is too long


def refuse_irregular(path: Path, error: type[EntangleError]) -> None:
    """Refuse a pipe, a device or a socket, because reading one may never end. Missing files are not refused.

    Raises:
        EntangleError: the path is not a regular file or a folder; the exception type is `error`.
    """
    if is_there(path) and not is_folder(path) and not os.path.isfile(path):  # noqa: PTH113 -- as below
        raise error(
            f"{path}: a pipe, a device or a socket",
            "a regular file",
            "write the content to a file first; for DATA you can also use - to read standard input",
        )


def is_folder(path: Path) -> bool:
    """Whether a path is a folder. False for names that no file can have."""
    return os.path.isdir(path)  # noqa: PTH112 -- as above
