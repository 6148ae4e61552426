"""Rows of columnar files: Parquet, Arrow, and folders saved by `datasets`."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from entangle_cli.data.arrow_pieces import BATCH_ROWS, PIECE_BYTES, TooLong, in_pieces
from entangle_cli.data.dataset_folder import saved_files
from entangle_cli.data.fingerprint import Fingerprint, fingerprint
from entangle_cli.data.rows import FileSource, RawRow, RowSource, too_long
from entangle_cli.errors import DataError
from entangle_cli.records.settings import LARGEST_ROW


class _ArrowBatches(FileSource):
    """A file that pyarrow reads one batch at a time.

    Args:
        max_row_bytes: limit on a row; longer rows get a problem.
    """

    def __init__(self, path: Path, max_row_bytes: int = LARGEST_ROW) -> None:
        super().__init__(path)
        self._limit = max_row_bytes

    @abstractmethod
    def open_batches(self) -> tuple[Any, Iterator[Any]]:
        """The schema and the record batches. Batches of a Parquet file may have dictionaries beyond the schema."""

    def pieces(self, max_row_bytes: int) -> tuple[Any, Iterator[Any]]:
        """The schema, and all rows as validated record batches of that schema. `TooLong` replaces a longer row."""
        schema, batches = self.open_batches()
        return schema, (piece for batch in batches for piece in in_pieces(self.checked(batch), schema, max_row_bytes))

    def checked(self, batch: Any) -> Any:
        """Validate a batch's offsets. Parquet batches need no check, because the decoder validates them."""
        return batch

    def rows(self) -> Iterator[RawRow]:
        """All rows, with one piece in memory at a time."""
        index = 0
        try:
            schema, pieces = self.pieces(self._limit)
            decode = _json_decoder(schema)
            for piece in pieces:
                if isinstance(piece, TooLong):
                    yield RawRow(index, None, problem=too_long(piece.num_bytes, self._limit))
                    index += 1
                    continue
                for value in piece.to_pylist():
                    yield RawRow(index, decode(value))
                    index += 1
            if index != self.num_rows:
                raise ValueError(f"the file should have {self.num_rows:,} rows")
        except Exception as error:  # the library can raise any exception for a damaged file
            raise self._damaged(error, f", after row {index}") from error

    def _damaged(self, error: Exception, place: str = "") -> DataError:
        return DataError(
            f"{self.path}{place}: {error}", f"a complete {self.kind} file", "copy or download the file again"
        )


LARGEST_EXPANSION = 100
"""Largest expansion ratio of a Parquet file that expands to more than `LARGEST_EXPANDED` bytes."""

LARGEST_EXPANDED = 256 * 2**20

MOST_COLUMNS = 10_000
FEW_ROWS = 1_000_000
ROWS_PER_BYTE = 10
"""Limit on the rows per byte of a file. Even a well-compressed row of text needs some space."""


class Parquet(_ArrowBatches):
    """A Parquet file."""

    kind = "Parquet"

    def __init__(self, path: Path, max_row_bytes: int = LARGEST_ROW) -> None:
        import pyarrow.parquet

        super().__init__(path, max_row_bytes)
        try:
            file = pyarrow.parquet.ParquetFile(path)
            metadata, columns = file.metadata, file.schema
            self.num_rows = metadata.num_rows
            # Do not read the columns of a row group here: pyarrow ends the process if one is damaged.
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            if (in_groups := sum(group.num_rows for group in groups)) != self.num_rows:
                raise ValueError(f"{self.num_rows:,} rows in the file, but {in_groups:,} in its row groups")
        except Exception as error:
            raise self._damaged(error) from error
        self._refuse_claims(metadata.num_columns, sum(group.total_byte_size for group in groups))
        texts = (columns.column(number) for number in range(metadata.num_columns))
        self._texts = sorted({column.path for column in texts if column.physical_type == "BYTE_ARRAY"})

    def _refuse_claims(self, num_columns: int, num_bytes: int) -> None:
        size = self.path.stat().st_size
        if num_columns > MOST_COLUMNS or self.num_rows > max(FEW_ROWS, ROWS_PER_BYTE * size):
            raise DataError(
                f"{self.path}: {self.num_rows:,} rows of {num_columns:,} columns in {size:,} bytes",
                f"at most {MOST_COLUMNS:,} columns, and {ROWS_PER_BYTE} rows per byte",
                "download the file again from a source that you trust",
            )
        if num_bytes > max(LARGEST_EXPANDED, LARGEST_EXPANSION * size):
            raise DataError(
                f"{self.path}: {num_bytes:,} bytes in {size:,} compressed bytes",
                f"expansion by a factor of at most {LARGEST_EXPANSION}, or to at most {LARGEST_EXPANDED:,} bytes",
                "if you trust the file, save it again without compression",
            )

    def open_batches(self) -> tuple[Any, Iterator[Any]]:
        """The schema and the record batches. Texts are dictionaries, so a repeated text is in memory once."""
        import pyarrow.parquet

        schema = pyarrow.parquet.ParquetFile(self.path).schema_arrow
        file = pyarrow.parquet.ParquetFile(self.path, read_dictionary=self._texts)
        return schema, self._batches(file)

    @staticmethod
    def _batches(file: Any) -> Iterator[Any]:
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            rows = max(1, min(BATCH_ROWS, PIECE_BYTES * group.num_rows // max(1, group.total_byte_size)))
            yield from file.iter_batches(batch_size=rows, row_groups=[number])


class ArrowFile(_ArrowBatches):
    """An Arrow file, or an Arrow stream in a file as `datasets` writes it."""

    kind = "Arrow"

    def __init__(self, path: Path, max_row_bytes: int = LARGEST_ROW) -> None:
        super().__init__(path, max_row_bytes)
        try:
            self.num_rows = sum(batch.num_rows for batch in self.open_batches()[1])
        except Exception as error:
            raise self._damaged(error) from error

    def refuse_damaged(self) -> None:
        """Validate the whole file before a library reads it without validation.

        Raises:
            DataError: the file is damaged.
        """
        try:
            for batch in self.open_batches()[1]:
                self.checked(batch)
        except Exception as error:
            raise self._damaged(error) from error

    def open_batches(self) -> tuple[Any, Iterator[Any]]:
        """The schema and the record batches."""
        import pyarrow

        content = pyarrow.memory_map(str(self.path))
        try:
            reader = pyarrow.ipc.open_file(content)
        except pyarrow.ArrowInvalid:
            content.seek(0)
            stream = pyarrow.ipc.open_stream(content)
            return stream.schema, iter(stream)
        return reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))

    def checked(self, batch: Any) -> Any:
        """Validate a batch. Arrow does not check its files, and a damaged offset would end the process."""
        batch.validate(full=True)
        return batch


def _json_decoder(schema: Any) -> Callable[[Any], Any]:
    """A function that decodes Arrow's JSON type. `datasets` writes it, and pyarrow returns it as text."""
    if "extension<arrow.json>" not in schema.to_string(truncate_metadata=True, show_schema_metadata=False):
        return lambda value: value
    import datasets

    decode: Callable[[Any], Any] = datasets.Features.from_arrow_schema(schema).decode_example
    return decode


class SavedDataset(RowSource):
    """A folder written by `Dataset.save_to_disk`.

    Attributes:
        dataset: the `datasets.Dataset`.
    """

    kind = "saved data set"

    def __init__(self, path: Path) -> None:
        import datasets

        self.location = str(path)
        self.name = path.name
        files = saved_files(path)
        # These files determine how the rows are decoded.
        described = [file for file in (path / "state.json", path / "dataset_info.json") if file.is_file()]
        self._fingerprints = [fingerprint(file) for file in (*files, *described)]
        self.files = files
        for file in files:
            ArrowFile(file).refuse_damaged()
        try:
            self.dataset = datasets.load_from_disk(str(path))
        except Exception as error:
            raise DataError(
                f"{path}: {error}", "a folder written by datasets' save_to_disk", "save it again with save_to_disk"
            ) from error
        self.num_rows = len(self.dataset)
        digest = hashlib.sha256()
        for each in self._fingerprints:
            digest.update(each.sha256.encode())
        self.sha256 = digest.hexdigest()

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """Fingerprints of the Arrow files and of the files that describe them."""
        return self._fingerprints

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, hash of the files and number of rows."""
        return {"name": self.name, "sha256": self.sha256, "rows": self.num_rows}

    def rows(self) -> Iterator[RawRow]:
        """All rows."""
        index = 0
        try:
            for value in self.dataset:
                yield RawRow(index, dict(value))
                index += 1
        except Exception as error:  # the library can raise any exception for a damaged file
            raise DataError(
                f"{self.location}, after row {index}: {error}",
                "a complete saved data set",
                "save it again with save_to_disk",
            ) from error
