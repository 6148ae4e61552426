"""What a user names as data, as a source of rows: a file, files, a folder or a name on the hub."""

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
from entangle_cli.data.rows import FileSource, RawRow, RowSource
from entangle_cli.data.slices import Slice, split_and_slice
from entangle_cli.data.splits import chosen_split
from entangle_cli.data.standard_input import STANDARD_INPUT, read_standard_input
from entangle_cli.errors import DataError, is_out_of_memory
from entangle_cli.records.settings import ReadingSettings

DELIMITERS = {".csv": ",", ".tsv": "\t"}
COLUMNAR = {".parquet": Parquet, ".arrow": ArrowFile}
JSON = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*JSON, *DELIMITERS, *COLUMNAR)
KNOWN = (
    "a .jsonl, .json, .csv, .tsv, .parquet or .arrow file (text also .gz, .bz2, .xz, .zst), a folder of them or one "
    "written by save_to_disk, or a hub name such as organisation/name"
)


def open_source(
    data: str | Path | Sequence[str], reading: ReadingSettings | None = None, limit: int | None = None
) -> RowSource:
    """The rows of a file, of the files of a pattern, of a folder, of standard input or of a data set on the hub.

    Args:
        data: one data set, or several, whose rows are counted through.
        limit: how many of the first rows will be read; None for all. Only the hub makes use of it.
    Raises:
        DataError: nothing there, not readable, of an unknown kind, without rows, or without the split in question.
    """
    reading = reading or ReadingSettings()
    names = named_data(data)
    if len(names) == 1:
        return _open_source(names[0], reading, limit)
    return JoinedSources([_open_source(name, reading, limit) for name in names])


def named_data(data: str | Path | Sequence[str]) -> list[str]:
    """The names of one data set or of several."""
    return [str(data)] if isinstance(data, str | Path) else [str(name) for name in data]


def _open_source(data: str, reading: ReadingSettings, limit: int | None) -> RowSource:
    split, spec = split_and_slice(reading.split)
    source = _open(data, split, reading, None if spec else limit)
    if source.num_rows == 0:
        raise DataError(f"{data}: no rows", "at least one preference pair", "check that the data are complete")
    if pairs_take_two_rows(source, reading):
        source = AdjacentRows(source)
    if spec:
        source = Slice(source, spec)
        if source.num_rows == 0:
            raise DataError(f"--split {spec}: a slice without rows", "at least one row", "take a larger part")
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
    found = [path] if data and is_there(path) else _matching(path, data)
    if found:
        _refuse_hub_options(data, reading)
        if len(found) == 1:
            return _named_alike(
                _open_file(found[0], reading.max_row_bytes, split), data, found[0], path, reading.max_row_bytes
            )
        _refuse_split(data, split)
        return SeveralFiles(data, Path(data).name, found, reading.max_row_bytes)
    # A name with a suffix of ours is a file that is not there, and is told to nobody.
    if is_hub_name(data) and kind_suffix(path) not in SUFFIXES:
        return HubDataset(data, split, reading, limit)
    raise DataError(f"{data}: no such file or folder", KNOWN, "check the path")


def _matching(path: Path, data: str) -> list[Path]:
    """The files of a pattern, without those that describe others."""
    # Path.glob takes no absolute pattern.
    found = sorted(map(Path, glob.glob(str(path) if data else "", recursive=True)))  # noqa: PTH207
    return [file for file in found if file.name not in DESCRIPTIONS] or found


def _named_alike(source: FileSource, data: str, found: Path, path: Path, max_row_bytes: int) -> RowSource:
    """A file under the name it was given; one that a pattern found stands for the pattern."""
    return source if found == path else SeveralFiles(data, Path(data).name, [found], max_row_bytes)


def _refuse_split(data: Path | str, split: str | None) -> None:
    if split not in (None, "train"):
        raise DataError(
            f"{data}: --split {split}, but it has no splits",
            "a folder or a hub name with several splits; a file is its own train split",
            "leave --split out, or name that folder",
        )


def _refuse_checkpoint(path: Path) -> None:
    """Refuse a checkpoint in place of data."""
    if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise DataError(
            f"{path}: a checkpoint, not a data set",
            "entangle scan MODEL DATA, in this order",
            "give the checkpoint first and the data second",
        )


def _refuse_hub_options(data: str, reading: ReadingSettings) -> None:
    for option, value in (("--config-name", reading.config_name), ("--data-revision", reading.revision)):
        if value is not None:
            raise DataError(f"{data}: {option} {value}, but it lies here", "a hub name", f"leave {option} out")


def _open_file(path: Path, max_row_bytes: int, split: str | None = None) -> FileSource:
    refuse_irregular(path, DataError)
    try:
        return _opened_file(path, max_row_bytes, split)
    except DECOMPRESSION_ERRORS as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: {reason}", "a readable, whole file", "check it and its permissions") from error


def _opened_file(path: Path, max_row_bytes: int, split: str | None) -> FileSource:
    suffix = kind_suffix(path)
    if suffix in COLUMNAR and is_compressed(path):
        raise DataError(
            f"{path}: a compressed {suffix} file",
            f"the {suffix} file itself; its format compresses already",
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
        f"{path}: unknown kind of file {suffix or '(no suffix)'}",
        KNOWN,
        "convert it, or rename it if only its name is unusual",
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
            raise DataError(f"{path}: --split {split}, but it has no splits", "a folder with splits", "leave it out")
        return SavedDataset(path)
    files = _files_by_split(path, config_name)
    chosen = files[chosen_split(str(path), split, list(files))]
    return SeveralFiles(str(path), path.name, chosen, reading.max_row_bytes)


def _files_by_split(path: Path, config_name: str | None) -> dict[str, list[Path]]:
    """The files of a plain folder by split, as `datasets` finds them by their names or in its README."""
    import datasets

    refuse_leading_out(path)
    try:
        builder = datasets.load_dataset_builder(str(path), config_name)
        found = builder.config.data_files or {}
    except Exception as error:  # an empty folder, an unknown config, a README that cannot be read
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path}: a folder without a data set: {reason}", KNOWN, "name one of its files instead"
        ) from error
    by_split = {str(split): [_file_inside(path, str(file)) for file in files] for split, files in found.items()}
    _refuse_left_out(path, {file.resolve() for files in by_split.values() for file in files}, config_name)
    return by_split


def _file_inside(folder: Path, file: str) -> Path:
    """A file that a library found for a folder."""
    if "://" in file or not Path(file).is_relative_to(folder.resolve()):
        raise DataError(
            f"{folder}: its description leads to {file}",
            "data inside the folder, which is hashed",
            "copy the data into the folder, or name the files themselves",
        )
    return Path(file)


def _refuse_left_out(path: Path, taken: set[Path], config_name: str | None) -> None:
    """Refuse a folder of which `datasets` would read only the files of the commonest kind, and say nothing."""
    left = [
        file
        for file in sorted(path.rglob("*"))
        if kind_suffix(file) in SUFFIXES
        and file.name not in DESCRIPTIONS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.resolve() not in taken
    ]
    if left and config_name is None and not (path / "README.md").exists():
        raise DataError(
            f"{path}: {len(left)} files would be left out, such as {left[0].relative_to(path)}",
            "files of one kind, or a README that says which belong together",
            "name the files that are meant with a pattern, such as 'folder/*.jsonl'",
        )


DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json", "state.json"}
"""Files beside the data that are none."""


class SeveralFiles(RowSource):
    """Files that are one data set, one after the other.

    Args:
        location: the folder or the pattern that found them.
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
        """Name, hash of the files' hashes in order, and number of rows."""
        digest = hashlib.sha256("".join(source.sha256 for source in self._sources).encode())
        return {"name": self.name, "sha256": digest.hexdigest(), "rows": self.num_rows}

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """Of the files, in order."""
        return [file for source in self._sources for file in source.fingerprints]

    @property
    def parts(self) -> list[tuple[FileSource, Path]]:
        """The files in order, each with its path below the folder that holds them all."""
        folder = Path(self.location).absolute()
        base = folder if folder.is_dir() else Path(os.path.commonpath([path.absolute().parent for path in self.files]))
        return [
            (source, path.absolute().relative_to(base)) for source, path in zip(self._sources, self.files, strict=True)
        ]

    def rows(self) -> Iterator[RawRow]:
        """All rows, counted through."""
        start = 0
        for source in self._sources:
            for row in source.rows():
                yield replace(row, index=start + row.index, file=source.location)
            start += source.num_rows


class JoinedSources(RowSource):
    """Several data sets, one after the other.

    Attributes:
        sources: in order.
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
        """Those of the data sets, in order."""
        return {"name": self.name, "sources": [dict(source.identity) for source in self.sources], "rows": self.num_rows}

    @property
    def fingerprints(self) -> Sequence[Fingerprint]:
        """Of all data sets."""
        return [file for source in self.sources for file in source.fingerprints]

    def rows(self) -> Iterator[RawRow]:
        """All rows, counted through; each says which data set it is of."""
        start = 0
        for source in self.sources:
            for place, row in enumerate(source.rows()):
                yield replace(row, index=start + place, file=row.file or source.location)
            start += source.num_rows
