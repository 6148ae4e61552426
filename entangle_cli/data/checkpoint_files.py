"""The files of a checkpoint folder that decide what it computes: all of them are hashed, and all lie inside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from entangle_cli.data.paths import refuse_irregular
from entangle_cli.errors import ModelError

SUFFIXES = {".json", ".jinja", ".safetensors", ".bin", ".model", ".txt", ".py"}
"""Of files whose content decides what a checkpoint computes, or how its tokenizer reads."""
TEMPLATES_FOLDER = "additional_chat_templates"


def checkpoint_files(folder: Path) -> dict[str, Path]:
    """The files that count, by their names below the folder.

    Raises:
        ModelError: a file that is no regular one, or a name in an index or a config that leads out of the folder.
    """
    paths = [path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.is_dir()]
    paths += (folder / TEMPLATES_FOLDER).glob("*.jinja")
    for path in paths:
        refuse_irregular(path, ModelError)
    named = [*_shards(folder), *_named_by(folder / "config.json", "transformers_weights")]
    for source, name in [*named, *_named_by(folder / "tokenizer_config.json", "fast_tokenizer_files")]:
        path = _inside(folder, source, name)
        refuse_irregular(path, ModelError)
        if path.is_file():
            paths.append(path)
    found = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    return dict(sorted(found.items()))


def _shards(folder: Path) -> Iterator[tuple[Path, str]]:
    for index in sorted(folder.glob("*.index.json")):
        document = read_object(index)
        shards = document.get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ModelError(f"{index}: no weight_map", "an index of the shards", "copy the checkpoint again")
        yield from ((index, name) for name in sorted(set(shards.values())))


def _named_by(file: Path, key: str) -> Iterator[tuple[Path, str]]:
    """The names of files that a config gives under a key."""
    if not file.is_file():
        return
    found = read_object(file).get(key)
    for name in found if isinstance(found, list) else [found]:
        if isinstance(name, str):
            yield file, name


def _inside(folder: Path, source: Path, name: str) -> Path:
    """The path of a file that another one names."""
    pure = PurePosixPath(name)
    path = folder / name
    if name and not pure.is_absolute() and ".." not in pure.parts and "\\" not in name and _stays(folder, path):
        return path
    raise ModelError(
        f"{source}: names {name!r}, which is not inside the folder",
        "files of the checkpoint's own folder, which are hashed",
        "copy the file into the folder, and correct the name",
    )


def _stays(folder: Path, path: Path) -> bool:
    """Whether a path leads below the folder, or to the blobs of the hub's cache that the folder is part of."""
    target = path.resolve()
    base = folder.resolve()
    is_cached = base.parent.name == "snapshots" and target.is_relative_to(base.parents[1] / "blobs")
    return is_cached or target.is_relative_to(base)


LARGEST_JSON = 256 * 2**20
"""Bytes of a config or an index; those of the largest models take a few million."""


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint.

    Raises:
        ModelError: unreadable, too large, no JSON, or no object.
    """
    refuse_irregular(file, ModelError)
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"more than {LARGEST_JSON:,} bytes")
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ModelError(f"{file}: {reason}", "one JSON object", "copy the file again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file}: a JSON {type(found).__name__}", "one JSON object", "copy the file again")
    return found
