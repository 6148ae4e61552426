"""Raw rows with their positions, and the interface of row sources. This module does not interpret values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from entangle_cli.data.fingerprint import Fingerprint, fingerprint, refuse_changed
from entangle_cli.errors import DataError
from entangle_cli.records.settings import ReadingSettings


@dataclass(frozen=True, slots=True)
class RawRow:
    """One unprocessed row of a source."""

    index: int
    """Position in the source, from 0; broken rows count."""
    value: Any
    """The parsed value; None if the row has a `problem`."""
    line: int | None = None
    """Line number, from 1; None if the format has no lines."""
    problem: str | None = None
    file: str | None = None
    """The row's file, if the data set has several."""
    source: int = 0
    """Number of the row's data set, if several are read together."""
    warnings: tuple[str, ...] = ()
    """Codes of `traps` from parsing the row."""


def too_long(num_bytes: int, max_row_bytes: int) -> str:
    """The problem text of a row that exceeds the limit."""
    return f"{num_bytes:,} bytes, above the limit of {max_row_bytes:,}; --max-row-bytes raises it"


class RowSource(ABC):
    """A data set that can be read repeatedly from the start.

    Attributes:
        location: path or name given by the user.
        name: last part of the location, for titles and folders.
        kind: format in words.
        num_rows: number of rows, including broken ones.
        files: source files; empty if a library manages them.
        readings: how the rows of every data set are read, in order, if DATA names a reading of its own for one.
    """

    location: str
    name: str
    kind: str
    num_rows: int
    files: Sequence[Path] = ()
    readings: Sequence[ReadingSettings] = ()

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Identity of the rows, JSON-able. Data sets with the same rows have equal identities."""

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """Fingerprints of the files hashed for the identity; empty if a library manages the files."""
        return ()

    def refuse_changed(self) -> None:
        """Refuse data that changed since they were hashed. Call it after reading all rows.

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

    def rows_at(self, indices: Sequence[int]) -> Iterator[RawRow]:
        """The rows with these indices, in order.

        Reading ends with the last one, because a stream would fetch the rows after it.
        """
        last = max(indices, default=-1)
        wanted: Container[int] = indices if isinstance(indices, range) else frozenset(indices)
        rows = takewhile(lambda row: row.index <= last, self.rows())
        return (row for row in rows if row.index in wanted)


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
        """The fingerprint of the file."""
        return (self._fingerprint,)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, hash and number of rows."""
        return {"name": self.name, "sha256": self.sha256, "rows": self.num_rows}
