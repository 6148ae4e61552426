"""Checks of a folder's descriptive files. They may only name files inside the folder, and must be small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from entangle_cli.data.paths import refuse_irregular
from entangle_cli.errors import DataError

LARGEST_DESCRIPTION = 16 * 2**20
"""Limit in bytes on a README, and on the JSON files written by save_to_disk."""
YAML_FILES = ("README.md", ".huggingface.yaml")


def refuse_leading_out(folder: Path) -> None:
    """Refuse a folder whose README refers to data elsewhere. No path is opened before this check.

    Raises:
        DataError: data_files or data_dir points outside the folder, or the YAML is invalid or has aliases.
    """
    for name in YAML_FILES:
        file = folder / name
        refuse_irregular(file, DataError)
        if file.is_file():
            for path in _named_paths(_metadata(file)):
                _refuse_outside(file, path)


def _metadata(file: Path) -> Any:
    text = _text(file)
    if file.suffix == ".md":
        lines = text.removeprefix("\ufeff").splitlines()
        if not lines or lines[0].strip() != "---":
            return None
        end = next((number for number, line in enumerate(lines[1:], 1) if line.strip() == "---"), 1)
        text = "\n".join(lines[1:end])
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise DataError(
                f"{file}: YAML with aliases, which can expand without limit",
                "YAML without aliases",
                "write every value out, or give the data files instead of the folder",
            )
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{file}: {reason}",
            "a README with YAML between two lines ---",
            "give the data files instead of the folder",
        ) from error


def _named_paths(metadata: Any) -> Iterator[Any]:
    """Every value under data_files, data_dir or path, at any depth."""
    pending = [metadata]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            for key, item in value.items():
                if key in ("data_files", "data_dir", "path"):
                    yield from _texts(item)
                pending.append(item)
        elif isinstance(value, list):
            pending.extend(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _refuse_outside(file: Path, name: str) -> None:
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or "://" in name or name.startswith("~"):
        raise DataError(
            f"{file}: {name!r} is not inside the folder",
            "data inside the folder, which is hashed",
            "copy the data into the folder, or give the files themselves",
        )


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder written by save_to_disk, in order.

    Raises:
        DataError: state.json is invalid, or it lists a file that is missing or outside the folder.
    """
    state = read_description(folder / "state.json")
    entries = state.get("_data_files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries or ()]
    if not isinstance(entries, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(
            f"{folder / 'state.json'}: no valid _data_files",
            "a folder written by datasets' save_to_disk",
            "save it again with save_to_disk",
        )
    for name in map(str, names):
        _refuse_outside(folder / "state.json", name)
        refuse_irregular(folder / name, DataError)
        if not (folder / name).is_file():
            raise DataError(
                f"{folder / name}: no such file", "every file in state.json", "save it again with save_to_disk"
            )
    return [folder / str(name) for name in names]


def saved_splits(folder: Path) -> list[str]:
    """The splits of a folder written by DatasetDict.

    Raises:
        DataError: dataset_dict.json names no splits, or one that cannot be a folder name.
    """
    file = folder / "dataset_dict.json"
    splits = read_description(file).get("splits")
    is_plain = isinstance(splits, list) and all(
        isinstance(split, str) and split not in ("", ".", "..") and not set(split) & set("/\\\0") for split in splits
    )
    if not is_plain or not splits:
        raise DataError(
            f"{file}: no valid list of splits",
            "a folder written by datasets' save_to_disk",
            "save it again with save_to_disk",
        )
    return list(splits)


def read_description(file: Path) -> dict[str, Any]:
    """Read a JSON object from a descriptive file.

    Raises:
        DataError: the file is unreadable, too large, or not a JSON object.
    """
    try:
        document = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: {error}", "one JSON object", "save the data set again") from error
    if not isinstance(document, dict):
        raise DataError(f"{file}: a JSON {type(document).__name__}", "one JSON object", "save the data set again")
    return document


def _text(file: Path) -> str:
    refuse_irregular(file, DataError)
    try:
        if file.stat().st_size > LARGEST_DESCRIPTION:
            raise DataError(
                f"{file}: more than {LARGEST_DESCRIPTION:,} bytes",
                "a smaller file",
                "give the data files instead of the folder",
            )
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: {error}", "a readable file in UTF-8", "check its permissions, or save it again as UTF-8"
        ) from error
