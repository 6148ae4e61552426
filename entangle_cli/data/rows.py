"""Raw rows with their places, and what every source of rows has in common. Values are not looked at here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entangle_cli.data.fingerprint import Fingerprint, fingerprint, refuse_changed
from entangle_cli.errors import DataError


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a source as it was found."""

    index: int
    """From 0, in the source's order; broken rows count."""
    value: Any
    """What was parsed; None where `problem` says why nothing could be."""
    line: int | None = None
    """From 1; None where the format has no lines."""
    problem: str | None = None
    file: str | None = None
    """Where the data set has several files: which."""
    warnings: tuple[str, ...] = ()
    """Codes of `traps` for what was found while the row was parsed."""


def too_long(num_bytes: int, max_row_bytes: int) -> str:
    """The problem of a row that is longer than any that is read."""
    return f"{num_bytes:,} bytes, and {max_row_bytes:,} is the limit; --max-row-bytes raises it"


class RowSource(ABC):
    """A data set that can be read from the start any number of times.

    Attributes:
        location: what the user named.
        name: its last part, for titles and folders.
        kind: its format in words.
        num_rows: rows in it, broken ones included.
        files: what it is read from; none where a library holds it.
    """

    location: str
    name: str
    kind: str
    num_rows: int
    files: Sequence[Path] = ()

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What two data sets with the same rows have in common; JSON-able."""

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """The files that were hashed for the identity; none where a library holds them."""
        return ()

    def refuse_changed(self) -> None:
        """Refuse data that changed since they were hashed, when all rows were read.

        Raises:
            DataError: a file changed.
        """
        refuse_changed(self.fingerprints, DataError)

    @property
    def indices(self) -> Sequence[int]:
        """The index of every row, in order."""
        return range(self.num_rows)

    @abstractmethod
    def rows(self) -> Iterator[RawRow]:
        """All rows, in order."""


class FileSource(RowSource):
    """A data set in one file.

    Attributes:
        path: the file.
        sha256: hash of its bytes, hexadecimal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)
        self.name = path.name
        self.files = [path]
        self._fingerprint = fingerprint(path)
        self.sha256 = self._fingerprint.sha256

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """Of the file."""
        return (self._fingerprint,)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, hash and number of rows."""
        return {"name": self.name, "sha256": self.sha256, "rows": self.num_rows}
