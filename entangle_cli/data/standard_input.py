"""Data from standard input, kept in a temporary file with a suffix that matches the content."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

from entangle_cli.data.compression import DECOMPRESSION_ERRORS, opened_bytes
from entangle_cli.errors import DataError

STANDARD_INPUT = "-"
MAGIC = {b"PAR1": ".parquet", b"ARROW1": ".arrow"}
COMPRESSED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz"}
"""First bytes of non-text files."""
LOOKED_AT_BYTES = 4096


def read_standard_input() -> Path:
    """Copy standard input to a temporary file, which is deleted when the process ends.

    Raises:
        DataError: standard input is a terminal, closed or empty, or holds damaged compressed data.
    """
    stream = sys.stdin
    if stream is None or stream.closed or stream.isatty():
        raise DataError(
            "-: standard input is not a pipe or a file",
            "data from a pipe",
            "run for example: cat pairs.jsonl | entangle inspect -",
        )
    folder = Path(tempfile.mkdtemp(prefix="entangle-stdin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "stdin"
    with path.open("wb") as file:
        shutil.copyfileobj(stream.buffer, file)
    with path.open("rb") as file:
        start = file.read(LOOKED_AT_BYTES)
    if not start:
        raise DataError("-: standard input is empty", "data from a pipe", "check the command before the pipe")
    compression = next((suffix for magic, suffix in COMPRESSED.items() if start.startswith(magic)), "")
    if compression:
        path = path.rename(folder / f"stdin{compression}")
        start = _decompressed_start(path)
    return path.rename(folder / f"stdin{_suffix(start)}{compression}")


def _decompressed_start(path: Path) -> bytes:
    try:
        with opened_bytes(path) as file:
            return file.read(LOOKED_AT_BYTES)
    except DECOMPRESSION_ERRORS as error:
        raise DataError(
            f"-: compressed data that cannot be read: {error}",
            "a complete compressed file",
            "check the command before the pipe",
        ) from error


def _suffix(start: bytes) -> str:
    """The suffix for content that begins with `start`."""
    for magic, suffix in MAGIC.items():
        if start.startswith(magic):
            return suffix
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"{", b"[", b""):
        return ".jsonl"
    header = text.split(b"\n", 1)[0]
    return ".tsv" if b"\t" in header and b"," not in header else ".csv"
