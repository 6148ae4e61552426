"""What the files beside a folder's data may say: names of files inside it, and nothing that never ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from entangle_cli.data.paths import refuse_irregular
from entangle_cli.errors import DataError

LARGEST_DESCRIPTION = 16 * 2**20
"""Bytes of a README or of what save_to_disk writes beside the rows."""
YAML_FILES = ("README.md", ".huggingface.yaml")


def refuse_leading_out(folder: Path) -> None:
    """Refuse a folder whose README names data elsewhere, before anything follows the name.

    Raises:
        DataError: data_files or data_dir outside the folder, or YAML that cannot be read or repeats itself by aliases.
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
        end = next((place for place, line in enumerate(lines[1:], 1) if line.strip() == "---"), 1)
        text = "\n".join(lines[1:end])
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise DataError(
                f"{file}: YAML with aliases, which a few lines may make as large as they like",
                "YAML that is written out",
                "write each value out, or name the data files instead of the folder",
            )
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{file}: {reason}", "a README with YAML between two lines ---", "name the data files instead"
        ) from error


def _named_paths(found: Any) -> Iterator[Any]:
    """Every value under data_files, data_dir or path, however deep."""
    pending = [found]
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
            f"{file}: names {name!r}, which is not inside the folder",
            "data inside the folder, which is hashed",
            "copy the data into the folder, or name the files themselves",
        )


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files that a folder written by save_to_disk consists of, in order.

    Raises:
        DataError: no state.json that names files inside the folder.
    """
    state = read_description(folder / "state.json")
    entries = state.get("_data_files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries or ()]
    if not isinstance(entries, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(
            f"{folder / 'state.json'}: no _data_files",
            "a folder written by datasets' save_to_disk",
            "write it again",
        )
    for name in map(str, names):
        _refuse_outside(folder / "state.json", name)
        refuse_irregular(folder / name, DataError)
        if not (folder / name).is_file():
            raise DataError(
                f"{folder / name}: no such file", "every file that state.json names", "write it again by save_to_disk"
            )
    return [folder / str(name) for name in names]


def saved_splits(folder: Path) -> list[str]:
    """The splits of a folder that DatasetDict wrote.

    Raises:
        DataError: dataset_dict.json names none, or no folders inside this one.
    """
    file = folder / "dataset_dict.json"
    splits = read_description(file).get("splits")
    is_plain = isinstance(splits, list) and all(
        isinstance(split, str) and split not in ("", ".", "..") and not set(split) & set("/\\\0") for split in splits
    )
    if not is_plain or not splits:
        raise DataError(f"{file}: names no splits", "a folder written by datasets' save_to_disk", "write it again")
    return list(splits)


def read_description(file: Path) -> dict[str, Any]:
    """A JSON object beside the data.

    Raises:
        DataError: unreadable, too large, no JSON, or no object.
    """
    try:
        found = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: {error}", "one JSON object", "write the data set again") from error
    if not isinstance(found, dict):
        raise DataError(f"{file}: a JSON {type(found).__name__}", "one JSON object", "write the data set again")
    return found


def _text(file: Path) -> str:
    refuse_irregular(file, DataError)
    try:
        if file.stat().st_size > LARGEST_DESCRIPTION:
            raise DataError(
                f"{file}: more than {LARGEST_DESCRIPTION:,} bytes", "a short description", "name the data files instead"
            )
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: {error}", "a readable file in UTF-8", "write it again") from error
