"""Reading and writing files, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from entangle_cli.data.fingerprint import READ_BYTES
from entangle_cli.errors import DataError

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")

DECOMPRESSION_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""Exceptions raised when reading a damaged file."""


CONTENT_BY_FIRST_BYTES = {
    b"\x1f\x8b": ".gz",
    b"BZh": ".bz2",
    b"\xfd7zXZ": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"PK\x03\x04": ".zip",
    b"PAR1": ".parquet",
    b"ARROW1": ".arrow",
}
"""First bytes of non-text files, and the usual suffix."""

UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def kind_suffix(path: Path) -> str:
    """The suffix that gives a file's format, in lower case: `.jsonl` for `pairs.jsonl.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSIONS else suffix


def is_compressed(path: Path) -> bool:
    """Whether the last suffix is that of a compression format."""
    return path.suffix.lower() in COMPRESSIONS


LARGEST_EXPANSION = 200
"""Largest expansion ratio of a compressed file that expands to more than `LARGEST_EXPANDED` bytes."""

LARGEST_EXPANDED = 32 * 2**20


class _Counted(io.RawIOBase):
    """Decompressed content with a limit on its expansion ratio."""

    def __init__(self, content: IO[bytes], path: Path) -> None:
        self._content = content
        self._path = path
        self._limit = max(LARGEST_EXPANDED, LARGEST_EXPANSION * path.stat().st_size)
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._content.read(len(buffer))
        self._read += len(piece)
        if self._read > self._limit:
            raise DataError(
                f"{self._path}: it decompresses to more than {self._limit:,} bytes",
                f"at most {LARGEST_EXPANSION} times the size of the file",
                "if you trust the file, decompress it yourself",
            )
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._content.close()
        super().close()


def opened_bytes(path: Path) -> IO[bytes]:
    """Open a file's content, decompressed on the fly.

    Raises:
        DataError: on reading, if the content exceeds the expansion limit.
    """
    if not is_compressed(path):
        return path.open("rb")
    return io.BufferedReader(_Counted(_decompressed(path), path), READ_BYTES)


def _decompressed(path: Path) -> IO[bytes]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path))
    if suffix == ".bz2":
        return bz2.open(path)
    if suffix == ".xz":
        return lzma.open(path)
    # Use pyarrow's codec: Python has one only since 3.14.
    import pyarrow

    return cast("IO[bytes]", pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))


def opened_for_writing(path: Path, name: Path) -> IO[bytes]:
    """Open a file for writing, with the compression given by the last suffix of `name`."""
    suffix = name.suffix.lower()
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "wb"))
    if suffix == ".bz2":
        return bz2.open(path, "wb")
    if suffix == ".xz":
        return lzma.open(path, "wb")
    if suffix == ".zst":
        import pyarrow

        return cast("IO[bytes]", pyarrow.CompressedOutputStream(pyarrow.OSFile(str(path), "wb"), "zstd"))
    return path.open("wb")


def lines_within(file: IO[bytes], limit: int) -> Iterator[tuple[bytes, bool]]:
    """Every line of a file, and whether it is complete. Lines longer than `limit` bytes are cut."""
    while line := file.readline(limit + 1):
        is_whole = len(line) <= limit or line.endswith(b"\n")
        yield line, is_whole
        rest = b"" if is_whole else line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(READ_BYTES)


def opened_text(path: Path, *, newline: str | None = None) -> IO[str]:
    """Open a file's content as UTF-8 text, without a byte order mark."""
    return io.TextIOWrapper(opened_bytes(path), encoding="utf-8-sig", newline=newline)


def refuse_other_content(path: Path) -> None:
    """Refuse a file with a text suffix and other content.

    Raises:
        DataError: the file is compressed, columnar, or text in UTF-16 or UTF-32.
    """
    with opened_bytes(path) as file:
        start = file.read(8)
    suffix = next((suffix for first, suffix in CONTENT_BY_FIRST_BYTES.items() if start.startswith(first)), None)
    if suffix == ".zip":
        raise DataError(f"{path}: a zip archive", "an uncompressed or gzip file", f"unzip {path}")
    if suffix is not None:
        new = path.with_suffix(suffix) if suffix in (".parquet", ".arrow") else Path(f"{path}{suffix}")
        raise DataError(f"{path}: holds {suffix} data", "a suffix that matches the content", f"mv {path} {new}")
    if start.startswith(UTF_16_MARKS) or b"\x00" in start[:4]:
        raise DataError(
            f"{path}: text in UTF-16 or UTF-32", "UTF-8", f"iconv -f UTF-16 -t UTF-8 {path} > utf8-{path.name}"
        )
