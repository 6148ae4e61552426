"""Files that options name, such as that of `--json`: refused before the work, written whole after it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import IO, TypeVar

from entangle_cli.errors import UnfinishedError, UsageError

Format = TypeVar("Format", bound=StrEnum)


def refuse_unwritable(path: Path | None, *inputs: Path | None, option: str = "--json") -> None:
    """Refuse a file that cannot be one, before anything is computed.

    Args:
        inputs: files and folders that are read, which it must not change.
    Raises:
        UsageError: no such folder, a folder itself, one of the inputs or inside one, or a file of a run.
    """
    if path is None:
        return
    if path.is_dir() or not path.absolute().parent.is_dir():
        found = "a folder" if path.is_dir() else "no such folder"
        raise UsageError(
            f"{option} {path}: {found}", "a file in a folder that exists", "name a file, or make its folder"
        )
    for given in inputs:
        if given is not None and given.exists() and _is_or_is_in(path, given):
            raise UsageError(
                f"{option} {path} would change what is read: {given}", "a file elsewhere", "name another file"
            )
    if _is_runs_own(path.resolve()):
        raise UsageError(f"{option} {path}: a run's own file", "a file that no run consists of", "name another file")


def format_and_file(text: str, formats: type[Format], example: str, *inputs: Path | None) -> tuple[Format, Path]:
    """The format and the file of an option `--write FORMAT=FILE`.

    Args:
        inputs: files and folders that are read, which the file must not change.
    Raises:
        UsageError: another form, an unknown format, or a file that cannot be one.
    """
    kind, _, file = text.partition("=")
    if kind not in list(formats) or not file:
        raise UsageError(
            f"--write {text!r}", f"FORMAT=FILE with a format of {', '.join(formats)}", f"write it like {example}"
        )
    refuse_unwritable(Path(file), *inputs, option="--write")
    return formats(kind), Path(file)


def _is_or_is_in(path: Path, given: Path) -> bool:
    """Whether a file to write is one that is read, or would change a folder that is."""
    if path.exists() and path.samefile(given):
        return True
    return given.is_dir() and path.resolve().parent == given.resolve()


RUNS_OWN = {"manifest.json", "summary.json", ".lock"}
RUNS_FOLDERS = {"pairs", "layers"}


def _is_runs_own(path: Path) -> bool:
    """Whether a path is one of the files that a run consists of."""
    folder = path.parent.parent if path.parent.name in RUNS_FOLDERS else path.parent
    is_own = path.parent.name in RUNS_FOLDERS or path.name in RUNS_OWN
    return is_own and (folder / "manifest.json").exists()


def write_bytes(path: Path, content: bytes, option: str) -> None:
    """Write bytes as `write_file` writes a document."""
    write_file(path, lambda stream: stream.buffer.write(content), option)  # type: ignore[attr-defined]


def write_file(path: Path, write: Callable[[IO[str]], object], option: str = "--json") -> None:
    """Have a document written under a temporary name, then rename it; into a device or a pipe it is written at once.

    Raises:
        UnfinishedError: it cannot be written, as on a full disk; what was there before is untouched.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8") as stream:
                write(stream)
        else:
            _replace(path.resolve(), write)
    except OSError as error:
        raise UnfinishedError(
            f"{option} {path}: {error.strerror or error}",
            "a file that can be written",
            "name another file, or make room",
        ) from error


def _replace(path: Path, write: Callable[[IO[str]], object]) -> None:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
    ) as stream:
        temporary = Path(stream.name)
        try:
            write(stream.file)
            stream.flush()
            # A temporary file is its owner's alone; the document gets what a new file would have.
            temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
