"""Opens the user's DATA argument as a source of rows: a file, several files, a folder or a hub name."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from entangle_cli.data.arrow_files import ArrowFile, Parquet, SavedDataset
from entangle_cli.data.compression import DECOMPRESSION_ERRORS, is_compressed, kind_suffix, refuse_other_content
from entangle_cli.data.dataset_folder import refuse_leading_out, saved_splits
from entangle_cli.data.delimited import Delimited
from entangle_cli.data.fingerprint import Fingerprint
from entangle_cli.data.formats.adjacent import AdjacentRows, pairs_take_two_rows
from entangle_cli.data.hub import HubDataset, is_hub_name
from entangle_cli.data.json_files import JsonDocument, open_json
from entangle_cli.data.paths import expanded, is_folder, is_there, refuse_irregular
from entangle_cli.data.readings import reading_of_word
from entangle_cli.data.rows import FileSource, RawRow, RowSource
from entangle_cli.data.slices import Slice, split_and_slice
from entangle_cli.data.splits import chosen_split
from entangle_cli.data.standard_input import STANDARD_INPUT, read_standard_input
from entangle_cli.errors import DataError, is_out_of_memory
from entangle_cli.records.data_words import parsed_data_word
from entangle_cli.records.settings import ReadingSettings

DELIMITERS = {".csv": ",", ".tsv": "\t"}
COLUMNAR = {".parquet": Parquet, ".arrow": ArrowFile}
JSON = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*JSON, *DELIMITERS, *COLUMNAR)
KNOWN = (
    "a .jsonl, .json, .csv, .tsv, .parquet or .arrow file (text also .gz, .bz2, .xz, .zst), a folder with such files, "
    "a folder written by save_to_disk, or a hub name such as organisation/name"
)


def open_source(
    data: str | Path | Sequence[str], reading: ReadingSettings | None = None, limit: int | None = None
) -> RowSource:
    """Open a file, the files of a pattern, a folder, standard input or a data set on the hub.

    Args:
        data: one data set or several, each maybe with a reading of its own (`records.data_words`). The rows of several
            are numbered consecutively.
        limit: number of rows that will be read from the start; None for all. Only hub data sets use it.
    Raises:
        DataError: the data do not exist, cannot be read, have an unknown format, have no rows, or lack the split.
        UsageError: a reading that DATA names cannot be used.
    """
    reading = reading or ReadingSettings()
    words = named_data(data)
    readings = [reading_of_word(word, reading) for word in words]
    sources = [
        _open_source(parsed_data_word(word).name, each, limit) for word, each in zip(words, readings, strict=True)
    ]
    source = sources[0] if len(sources) == 1 else JoinedSources(sources)
    if any(each != reading for each in readings):
        source.readings = readings
    if len(sources) == 1 and readings[0] != reading:
        source.location = words[0]
    return source


def named_data(data: str | Path | Sequence[str]) -> list[str]:
    """The names of one or several data sets."""
    return [str(data)] if isinstance(data, str | Path) else [str(name) for name in data]


def _open_source(data: str, reading: ReadingSettings, limit: int | None) -> RowSource:
    split, spec = split_and_slice(reading.split)
    source = _open(data, split, reading, None if spec else limit)
    if source.num_rows == 0:
        raise DataError(f"{data}: no rows", "at least one row", "check how the file was created")
    if pairs_take_two_rows(source, reading):
        source = AdjacentRows(source)
    if spec:
        source = Slice(source, spec)
        if source.num_rows == 0:
            raise DataError(f"--split {spec}: a slice without rows", "at least one row", "use a larger slice")
    return source


def _open(data: str, split: str | None, reading: ReadingSettings, limit: int | None) -> RowSource:
    if data == STANDARD_INPUT:
        source = _open_file(read_standard_input(), reading.max_row_bytes, split)
        source.location, source.name = "standard input", "stdin"
        return source
    path = expanded(data)
    if data and is_folder(path):
        _refuse_checkpoint(path)
        return _open_folder(path.resolve() if data in (".", "..") else path, split, reading)
    files = [path] if data and is_there(path) else _matching(path, data)
    if files:
        _refuse_hub_options(data, reading)
        if len(files) == 1:
            return _named_alike(
                _open_file(files[0], reading.max_row_bytes, split), data, files[0], path, reading.max_row_bytes
            )
        _refuse_split(data, split)
        return SeveralFiles(data, Path(data).name, files, reading.max_row_bytes)
    # A name with a data suffix is a missing local file. Do not send it to the hub.
    if is_hub_name(data) and kind_suffix(path) not in SUFFIXES:
        return HubDataset(data, split, reading, limit)
    raise DataError(f"{data}: no such file or folder", KNOWN, "check the path and the working directory")


def _matching(path: Path, data: str) -> list[Path]:
    """The files that match a pattern, without descriptive files."""
    # Path.glob does not support absolute patterns.
    files = sorted(map(Path, glob.glob(str(path) if data else "", recursive=True)))  # noqa: PTH207
    return [file for file in files if file.name not in DESCRIPTIONS] or files


def _named_alike(source: FileSource, data: str, file: Path, path: Path, max_row_bytes: int) -> RowSource:
    """The source under the user's name for it: the file itself, or the pattern that matched it."""
    return source if file == path else SeveralFiles(data, Path(data).name, [file], max_row_bytes)


def _refuse_split(data: Path | str, split: str | None) -> None:
    if split not in (None, "train"):
        raise DataError(
            f"{data}: --split {split}, but it has no splits",
            "a folder or hub name with several splits; a single file counts as the train split",
            "omit --split, or give a folder with splits",
        )


def _refuse_checkpoint(path: Path) -> None:
    """Refuse a checkpoint as DATA."""
    if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise DataError(
            f"{path}: a checkpoint, not a data set",
            "entangle scan MODEL DATA, in this order",
            "give the checkpoint first and the data second",
        )


def _refuse_hub_options(data: str, reading: ReadingSettings) -> None:
    for option, value in (("--config-name", reading.config_name), ("--data-revision", reading.revision)):
        if value is not None:
            raise DataError(f"{data}: {option} {value}, but the data are local", "a hub name", f"omit {option}")


def _open_file(path: Path, max_row_bytes: int, split: str | None = None) -> FileSource:
    refuse_irregular(path, DataError)
    try:
        return _opened_file(path, max_row_bytes, split)
    except DECOMPRESSION_ERRORS as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: {reason}", "a readable, complete file", "check its permissions, or copy the file again"
        ) from error


def _opened_file(path: Path, max_row_bytes: int, split: str | None) -> FileSource:
    suffix = kind_suffix(path)
    if suffix in COLUMNAR and is_compressed(path):
        raise DataError(
            f"{path}: a compressed {suffix} file",
            f"an uncompressed {suffix} file; the format has its own compression",
            "decompress it",
        )
    if suffix in (*JSON, *DELIMITERS):
        refuse_other_content(path)
    if suffix in JSON:
        source = open_json(path, split, max_row_bytes)
        if isinstance(source, JsonDocument) and source.layout.place is not None and source.layout.place == split:
            return source
        _refuse_split(path, split)
        return source
    _refuse_split(path, split)
    if suffix in DELIMITERS:
        return Delimited(path, DELIMITERS[suffix], max_row_bytes)
    if suffix in COLUMNAR:
        return COLUMNAR[suffix](path, max_row_bytes)
    raise DataError(
        f"{path}: unknown file type {suffix or '(no suffix)'}",
        KNOWN,
        "convert it, or rename it if it has one of these formats",
    )


def _open_folder(path: Path, split: str | None, reading: ReadingSettings) -> RowSource:
    _refuse_hub_options(str(path), replace(reading, config_name=None))
    config_name = reading.config_name
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        _refuse_hub_options(str(path), reading)
    if (path / "dataset_dict.json").exists():
        return SavedDataset(path / chosen_split(str(path), split, saved_splits(path)))
    if (path / "state.json").exists():
        if split not in (None, "train"):
            raise DataError(f"{path}: --split {split}, but it has no splits", "a folder with splits", "omit --split")
        return SavedDataset(path)
    files = _files_by_split(path, config_name)
    chosen = files[chosen_split(str(path), split, list(files))]
    return SeveralFiles(str(path), path.name, chosen, reading.max_row_bytes)


def _files_by_split(path: Path, config_name: str | None) -> dict[str, list[Path]]:
    """The files of a plain folder by split. `datasets` assigns them by file name or by the folder's README."""
    import datasets

    refuse_leading_out(path)
    try:
        builder = datasets.load_dataset_builder(str(path), config_name)
        data_files = builder.config.data_files or {}
    except Exception as error:  # an empty folder, an unknown config, an unreadable README
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path}: a folder without a data set: {reason}", KNOWN, "give one of its files instead"
        ) from error
    by_split = {str(split): [_file_inside(path, str(file)) for file in files] for split, files in data_files.items()}
    _refuse_left_out(path, {file.resolve() for files in by_split.values() for file in files}, config_name)
    return by_split


def _file_inside(folder: Path, file: str) -> Path:
    """Check that a file from `datasets` is inside the folder.

    Raises:
        DataError: the file is outside the folder.
    """
    if "://" in file or not Path(file).is_relative_to(folder.resolve()):
        raise DataError(
            f"{folder}: its description refers to {file}",
            "data inside the folder, which is hashed",
            "copy the data into the folder, or give the files themselves",
        )
    return Path(file)


def _refuse_left_out(path: Path, used: set[Path], config_name: str | None) -> None:
    """Refuse a folder with files that `datasets` would silently ignore. It reads only the most common file type."""
    ignored = [
        file
        for file in sorted(path.rglob("*"))
        if kind_suffix(file) in SUFFIXES
        and file.name not in DESCRIPTIONS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.resolve() not in used
    ]
    if ignored and config_name is None and not (path / "README.md").exists():
        raise DataError(
            f"{path}: {len(ignored)} file{'s' * (len(ignored) > 1)} would be ignored, "
            f"such as {ignored[0].relative_to(path)}",
            "files of one type, or a README that assigns files to configurations",
            "give the files with a pattern, such as 'folder/*.jsonl'",
        )


DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json", "state.json"}
"""Descriptive files that hold no rows."""


class SeveralFiles(RowSource):
    """Several files as one data set, in order.

    Args:
        location: the folder or pattern of the files.
    """

    def __init__(self, location: str, name: str, paths: Sequence[Path], max_row_bytes: int) -> None:
        self.location = location
        self.name = name
        self._sources = [_open_file(path, max_row_bytes) for path in paths]
        self.files = paths
        self.kind = f"{len(paths):,} {'file' if len(paths) == 1 else 'files'}, " + " and ".join(
            dict.fromkeys(source.kind for source in self._sources)
        )
        self.num_rows = sum(source.num_rows for source in self._sources)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, hash of the file hashes in order, and number of rows."""
        digest = hashlib.sha256("".join(source.sha256 for source in self._sources).encode())
        return {"name": self.name, "sha256": digest.hexdigest(), "rows": self.num_rows}

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """Fingerprints of the files, in order."""
        return [file for source in self._sources for file in source.fingerprints]

    @property
    def parts(self) -> list[tuple[FileSource, Path]]:
        """The files in order, each with its path relative to their common folder."""
        folder = Path(self.location).absolute()
        base = folder if folder.is_dir() else Path(os.path.commonpath([path.absolute().parent for path in self.files]))
        return [
            (source, path.absolute().relative_to(base)) for source, path in zip(self._sources, self.files, strict=True)
        ]

    def rows(self) -> Iterator[RawRow]:
        """All rows, numbered consecutively."""
        start = 0
        for source in self._sources:
            for row in source.rows():
                yield replace(row, index=start + row.index, file=source.location)
            start += source.num_rows


class JoinedSources(RowSource):
    """Several data sets, in order.

    Attributes:
        sources: the data sets.
    """

    kind = "several data sets"

    def __init__(self, sources: Sequence[RowSource]) -> None:
        self.sources = sources
        self.location = ", ".join(source.location for source in sources)
        self.name = f"{sources[0].name} and {len(sources) - 1} more"
        self.files = [file for source in sources for file in source.files]
        self.num_rows = sum(source.num_rows for source in sources)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, identities of the data sets in order, and number of rows."""
        return {"name": self.name, "sources": [dict(source.identity) for source in self.sources], "rows": self.num_rows}

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """Fingerprints of all data sets."""
        return [file for source in self.sources for file in source.fingerprints]

    def rows(self) -> Iterator[RawRow]:
        """All rows, numbered consecutively. `file` gives the row's data set."""
        start = 0
        for number, source in enumerate(self.sources):
            for position, row in enumerate(source.rows()):
                yield replace(row, index=start + position, file=row.file or source.location, source=number)
            start += source.num_rows
