"""The file of `--json`: refused before the work, written whole after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from entangle_cli.errors import UsageError


def refuse_unwritable(path: Path | None) -> None:
    """Refuse a file whose folder does not exist.

    Raises:
        UsageError: it does not.
    """
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"--json {path}: no such folder", "a file in a folder that exists", "make the folder first")


def write_file(path: Path, write: Callable[[TextIO], None]) -> None:
    """Have a document written under a temporary name, then rename it.

    Raises:
        UsageError: it cannot be written, as on a full disk.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            write(stream)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"--json {path}: {error.strerror or error}",
            "a file that can be written",
            "name another file, or make room",
        ) from error
