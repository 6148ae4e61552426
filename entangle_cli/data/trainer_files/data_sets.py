"""Data sets as TRL and axolotl name them: the arguments of `datasets.load_dataset`."""

from __future__ import annotations

from collections.abc import Mapping

from entangle_cli.data.trainer_files.keys import Keys
from entangle_cli.records.training_setup import DataSetSetup

BUILDERS = ("json", "csv", "parquet", "arrow")
"""Names in place of a data set's for files on this machine."""


def data_set(
    name: str, split: str | None, config_name: str | None = None, columns: Mapping[str, str] | None = None
) -> DataSetSetup:
    """A data set. Every trainer takes the split `train` if its file names none."""
    return DataSetSetup(name, split or "train", config_name, columns=columns or {})


def data_sets_of(keys: Keys, key: str, entry: Keys, columns: Mapping[str, str] | None = None) -> list[DataSetSetup]:
    """The data sets of one entry of a list, one for each local file.

    Args:
        keys: of the whole file, for remarks.
        key: of the list.
    """
    name, files = entry.text("path") or "", entry.texts("data_files")
    names = files if files and name in BUILDERS else [name]
    if (files and names == [name]) or entry.has("data_dir"):
        keys.remark(key, f"{name}: data_files and data_dir of a data set are not supported")
    for part in ("fraction", "shards"):
        if entry.has(part):
            keys.remark(key, f"{name}: {part} {entry.text(part)} is not applied; all rows are read")
    split, config_name, revision = entry.text("split"), entry.text("name"), entry.text("revision")
    return [DataSetSetup(each, split or "train", config_name, revision, columns=columns or {}) for each in names]
