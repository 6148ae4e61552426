"""The files of a checkpoint folder that affect its computation. All are hashed and must lie inside the folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from entangle_cli.data.paths import refuse_irregular
from entangle_cli.errors import ModelError

SUFFIXES = {".json", ".jinja", ".safetensors", ".bin", ".model", ".txt", ".py"}
"""Suffixes of files that affect a checkpoint's computation or its tokenizer."""
TEMPLATES_FOLDER = "additional_chat_templates"


def checkpoint_files(folder: Path) -> dict[str, Path]:
    """The files that affect a checkpoint, by path relative to the folder.

    Raises:
        ModelError: a file is not a regular file, or a name in an index or config points outside the folder.
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
    files = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    return dict(sorted(files.items()))


def _shards(folder: Path) -> Iterator[tuple[Path, str]]:
    for index in sorted(folder.glob("*.index.json")):
        document = read_object(index)
        shards = document.get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ModelError(f"{index}: no valid weight_map", "an index of the shards", "copy the checkpoint again")
        yield from ((index, name) for name in sorted(set(shards.values())))


def _named_by(file: Path, key: str) -> Iterator[tuple[Path, str]]:
    """The file names under a key of a config, each with the config's path."""
    if not file.is_file():
        return
    entry = read_object(file).get(key)
    for name in entry if isinstance(entry, list) else [entry]:
        if isinstance(name, str):
            yield file, name


def _inside(folder: Path, source: Path, name: str) -> Path:
    """The path of a file named in `source`.

    Raises:
        ModelError: the path is outside the folder.
    """
    pure = PurePosixPath(name)
    path = folder / name
    if name and not pure.is_absolute() and ".." not in pure.parts and "\\" not in name and _stays(folder, path):
        return path
    raise ModelError(
        f"{source}: {name!r} is not inside the folder",
        "files in the checkpoint's own folder, which are hashed",
        f"copy the file into the folder, and change its name in {source.name}",
    )


def _stays(folder: Path, path: Path) -> bool:
    """Whether a path resolves inside the folder, or inside the blobs of the hub cache that contains the folder."""
    target = path.resolve()
    base = folder.resolve()
    is_cached = base.parent.name == "snapshots" and target.is_relative_to(base.parents[1] / "blobs")
    return is_cached or target.is_relative_to(base)


LARGEST_JSON = 256 * 2**20
"""Limit on a config or an index in bytes. The largest models need a few million."""


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object from a checkpoint file.

    Raises:
        ModelError: the file is unreadable, too large, or not a JSON object.
    """
    refuse_irregular(file, ModelError)
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"more than {LARGEST_JSON:,} bytes")
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ModelError(f"{file}: {reason}", "one JSON object", "copy the file again") from error
    if not isinstance(document, dict):
        raise ModelError(f"{file}: a JSON {type(document).__name__}", "one JSON object", "copy the file again")
    return document
