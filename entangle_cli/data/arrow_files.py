"""Rows of columnar files: Parquet, Arrow, and what `datasets` saves."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from entangle_cli.data.dataset_folder import saved_files
from entangle_cli.data.fingerprint import Fingerprint, fingerprint
from entangle_cli.data.rows import FileSource, RawRow, RowSource
from entangle_cli.errors import DataError

BATCH_ROWS = 1024


class _ArrowBatches(FileSource):
    """A file that pyarrow reads a batch at a time."""

    @abstractmethod
    def open_batches(self) -> tuple[Any, Iterator[Any]]:
        """The schema, and the record batches."""

    def rows(self) -> Iterator[RawRow]:
        """All rows, a batch in memory at a time."""
        index = 0
        try:
            schema, batches = self.open_batches()
            decode = _json_decoder(schema)
            for batch in batches:
                # Arrow trusts its files: a damaged offset would end the process.
                batch.validate(full=True)
                for value in batch.to_pylist():
                    yield RawRow(index, decode(value))
                    index += 1
        except Exception as error:  # a damaged file makes the library raise whatever
            raise self._damaged(error, f", after row {index}") from error

    def _damaged(self, error: Exception, place: str = "") -> DataError:
        return DataError(
            f"{self.path}{place}: {error}", f"a whole {self.kind} file", "check that it was copied completely"
        )


class Parquet(_ArrowBatches):
    """A Parquet file."""

    kind = "Parquet"

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet

        super().__init__(path)
        try:
            self.num_rows = pyarrow.parquet.ParquetFile(path).metadata.num_rows
        except Exception as error:
            raise self._damaged(error) from error

    def open_batches(self) -> tuple[Any, Iterator[Any]]:
        """The schema, and the record batches."""
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(self.path)
        return file.schema_arrow, file.iter_batches(batch_size=BATCH_ROWS)


class ArrowFile(_ArrowBatches):
    """An Arrow file, or a stream in a file, which is what `datasets` writes."""

    kind = "Arrow"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self.num_rows = sum(batch.num_rows for batch in self.open_batches()[1])
        except Exception as error:
            raise self._damaged(error) from error

    def refuse_damaged(self) -> None:
        """Look through the whole file, for a reader that trusts it.

        Raises:
            DataError: it is damaged.
        """
        try:
            for batch in self.open_batches()[1]:
                batch.validate(full=True)
        except Exception as error:
            raise self._damaged(error) from error

    def open_batches(self) -> tuple[Any, Iterator[Any]]:
        """The schema, and the record batches."""
        import pyarrow

        content = pyarrow.memory_map(str(self.path))
        try:
            reader = pyarrow.ipc.open_file(content)
        except pyarrow.ArrowInvalid:
            content.seek(0)
            stream = pyarrow.ipc.open_stream(content)
            return stream.schema, _pieces(stream)
        return reader.schema, _pieces(reader.get_batch(number) for number in range(reader.num_record_batches))


def _pieces(batches: Iterator[Any]) -> Iterator[Any]:
    """A file may hold all its rows in one batch."""
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _json_decoder(schema: Any) -> Callable[[Any], Any]:
    """Parses what `datasets` writes as Arrow's JSON type, which pyarrow gives as text."""
    if "extension<arrow.json>" not in schema.to_string(truncate_metadata=True, show_schema_metadata=False):
        return lambda value: value
    import datasets

    decode: Callable[[Any], Any] = datasets.Features.from_arrow_schema(schema).decode_example
    return decode


class SavedDataset(RowSource):
    """A folder written by `Dataset.save_to_disk`.

    Attributes:
        dataset: as `datasets` gives it.
    """

    kind = "saved data set"

    def __init__(self, path: Path) -> None:
        import datasets

        self.location = str(path)
        self.name = path.name
        files = saved_files(path)
        # What stands beside the rows decides how they are decoded.
        described = [file for file in (path / "state.json", path / "dataset_info.json") if file.is_file()]
        self._fingerprints = [fingerprint(file) for file in (*files, *described)]
        self.files = files
        for file in files:
            ArrowFile(file).refuse_damaged()
        try:
            self.dataset = datasets.load_from_disk(str(path))
        except Exception as error:
            raise DataError(
                f"{path}: {error}", "a folder written by datasets' save_to_disk", "write it again"
            ) from error
        self.num_rows = len(self.dataset)
        digest = hashlib.sha256()
        for each in self._fingerprints:
            digest.update(each.sha256.encode())
        self.sha256 = digest.hexdigest()

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """Of the Arrow files, and of what describes them."""
        return self._fingerprints

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, hash of its files and number of rows."""
        return {"name": self.name, "sha256": self.sha256, "rows": self.num_rows}

    def rows(self) -> Iterator[RawRow]:
        """All rows."""
        index = 0
        try:
            for value in self.dataset:
                yield RawRow(index, dict(value))
                index += 1
        except Exception as error:  # a damaged file makes the library raise whatever
            raise DataError(
                f"{self.location}, after row {index}: {error}", "a whole saved data set", "write it again"
            ) from error
