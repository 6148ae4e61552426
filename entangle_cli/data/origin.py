"""Where a checkpoint comes from: a folder, a name on the hub, or an adapter's base; and what tells two apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entangle_cli.data.adapter import base_of, is_adapter
from entangle_cli.data.checkpoint_files import checkpoint_files
from entangle_cli.data.compression import kind_suffix
from entangle_cli.data.fingerprint import Stamp, fingerprint, refuse_changed, stamp_of
from entangle_cli.data.hub import adapter_folder, cached_commit, is_hub_name, is_only_cached
from entangle_cli.data.paths import expanded, is_folder, is_there
from entangle_cli.data.series import last_checkpoint, step_of
from entangle_cli.errors import ModelError, UsageError
from entangle_cli.records.settings import LoadingSettings

DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a checkpoint comes from."""

    name: str
    """As it was named."""
    folder: Path | None
    """None for a name on the hub."""
    revision: str | None = None
    local_only: bool = False
    """The hub does not answer."""
    stamps: Mapping[str, Stamp] = field(default_factory=dict, compare=False)
    """Of the folder's files when they were found, by name: what is loaded must be what is hashed."""

    @property
    def source(self) -> str:
        """What the libraries are told."""
        return self.name if self.folder is None else str(self.folder)


def refuse_swapped(model: str, data: Sequence[str]) -> None:
    """Refuse a data file as MODEL beside a checkpoint as DATA.

    Raises:
        UsageError: they stand the wrong way round.
    """
    path = expanded(data[0]) if data and data[0] else None
    if path is not None and kind_suffix(expanded(model)) in DATA_SUFFIXES and is_folder(path) and _is_checkpoint(path):
        raise UsageError(
            f"MODEL {model} is a data file, and DATA {data[0]} is a checkpoint",
            "the checkpoint first, then the data",
            f"give them the other way round: {data[0]} {model}",
        )


def _is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").is_file() or is_adapter(folder)


TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def find_origin(name: str, loading: LoadingSettings, what: str = "checkpoint") -> Origin:
    """Resolve a name to a folder or to the hub.

    Args:
        what: `checkpoint`, or `tokenizer` for a folder that may hold nothing else.
    Raises:
        ModelError: nothing is found under it.
        UsageError: a revision of a folder.
    """
    path = expanded(name)
    is_tokenizer = what == "tokenizer" and bool(name) and is_folder(path) and has_tokenizer(path)
    folder = path if is_tokenizer else _local_folder(name)
    if folder is None:
        local_only = is_only_cached(name, loading.revision)
        adapter = adapter_folder(name, loading.revision, local_only=local_only)
        if adapter is not None:
            return origin_of(name, adapter)
        return Origin(name, None, loading.revision, local_only)
    if loading.revision is not None:
        raise UsageError(
            f"--model-revision {loading.revision}: {name} is a folder",
            "a name on the hub",
            "leave --model-revision out",
        )
    return origin_of(name, folder)


def origin_of(name: str, folder: Path) -> Origin:
    """A folder, with the stamps of its files. A link is followed once, here: it may lead elsewhere later.

    Raises:
        ModelError: a file in it that is no regular one, or a name that leads out of it.
    """
    folder = folder.resolve()
    return Origin(name, folder, stamps={file: stamp_of(path) for file, path in checkpoint_files(folder).items()})


def base_origin(adapter: Path, loading: LoadingSettings) -> Origin:
    """The base of an adapter; a revision is the adapter's, not its base's."""
    named = loading.base_model or base_of(adapter)
    try:
        base = find_origin(named, LoadingSettings())
    except ModelError as error:
        if loading.base_model is not None:
            raise
        raise ModelError(
            f"{adapter}: its base {named} was not found",
            "the checkpoint that the adapter was trained on",
            "name the folder where it lies now: --base-model FOLDER",
        ) from error
    if base.folder is not None and is_adapter(base.folder):
        raise ModelError(f"{base.name} is itself an adapter", "a whole checkpoint as base", "merge the first adapter")
    return base


def _local_folder(name: str) -> Path | None:
    """The folder that a name stands for; None for one on the hub."""
    path = expanded(name)
    if name and is_folder(path):
        if (path / "config.json").exists() or is_adapter(path):
            return path
        if (last := last_checkpoint(path)) is not None:
            return last
        raise ModelError(
            f"{name}: no config.json", "a Hugging Face checkpoint folder", "name the folder that holds config.json"
        )
    if path.suffix == ".gguf":
        raise ModelError(
            f"{name} is a GGUF file, whose weights are quantised",
            "a checkpoint folder with safetensors",
            "name the checkpoint that it was made from",
        )
    if name and is_there(path):
        is_data = kind_suffix(path) in DATA_SUFFIXES and not (path.parent / "config.json").is_file()
        raise ModelError(
            f"{name}: a data file, not a checkpoint folder" if is_data else f"{name}: a file, not a checkpoint folder",
            "entangle scan MODEL DATA, in this order",
            "give the checkpoint first and the data second" if is_data else "name the folder that holds config.json",
        )
    if not is_hub_name(name):
        raise ModelError(
            f"{name}: no such folder",
            "a checkpoint folder, or a hub name with its organisation, such as openai-community/gpt2",
            "check the name",
        )
    return None


def identity_of(origin: Origin) -> dict[str, Any]:
    """Name, and the SHA-256 of each file that counts or the hub's commit; JSON-able."""
    if origin.folder is None:
        return {"name": origin.name, "commit": cached_commit(origin.name, origin.revision)}
    folder = origin.folder.resolve()
    if not is_folder(expanded(origin.name)):
        name = origin.name  # downloaded to a folder that is named after its commit
    elif step_of(folder) is not None:
        name = f"{folder.parent.name}/{folder.name}"  # checkpoint-500 alone would say nothing
    else:
        name = folder.name
    files = {file: fingerprint(path) for file, path in checkpoint_files(origin.folder).items()}
    changed = [file for file in files.keys() | origin.stamps.keys() if file not in files or file not in origin.stamps]
    changed += [file for file, found in files.items() if found.stamp != origin.stamps.get(file, found.stamp)]
    if changed:
        raise ModelError(
            f"{origin.folder / min(changed)}: changed while the checkpoint was loaded",
            "the bytes whose hash the run holds",
            "give the command again when nothing else writes to the folder",
        )
    refuse_changed(files.values(), ModelError)
    return {"name": name, "files": {file: found.sha256 for file, found in files.items()}}
