"""The origin of a checkpoint (a folder, a hub name or an adapter's base) and its identity."""

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
    """The origin of a checkpoint."""

    name: str
    """Name given by the user."""
    folder: Path | None
    """None for a hub name."""
    revision: str | None = None
    local_only: bool = False
    """The hub does not answer, so only the cache is used."""
    stamps: Mapping[str, Stamp] = field(default_factory=dict, compare=False)
    """Stamps of the folder's files before loading, by name. The loaded files must equal the hashed ones."""

    @property
    def source(self) -> str:
        """The folder or hub name to pass to the libraries."""
        return self.name if self.folder is None else str(self.folder)


def refuse_swapped(model: str, data: Sequence[str]) -> None:
    """Refuse a data file as MODEL with a checkpoint as DATA.

    Raises:
        UsageError: the two arguments are swapped.
    """
    path = expanded(data[0]) if data and data[0] else None
    if path is not None and kind_suffix(expanded(model)) in DATA_SUFFIXES and is_folder(path) and _is_checkpoint(path):
        raise UsageError(
            f"MODEL {model} is a data file, and DATA {data[0]} is a checkpoint",
            "the checkpoint first, then the data",
            f"swap the arguments: {data[0]} {model}",
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
        what: `checkpoint`, or `tokenizer` for a folder that needs only a tokenizer.
    Raises:
        ModelError: no checkpoint or tokenizer has this name.
        UsageError: a revision is given for a folder.
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
            "a hub name with --model-revision",
            "omit --model-revision",
        )
    return origin_of(name, folder)


def origin_of(name: str, folder: Path) -> Origin:
    """The origin for a folder, with the stamps of its files. Symbolic links are resolved once, because they may change.

    Raises:
        ModelError: a file is not a regular file, or a file name points outside the folder.
    """
    folder = folder.resolve()
    return Origin(name, folder, stamps={file: stamp_of(path) for file, path in checkpoint_files(folder).items()})


def base_origin(adapter: Path, loading: LoadingSettings) -> Origin:
    """Find the base of an adapter. A revision in the settings applies only to the adapter.

    Raises:
        ModelError: the base is not found, or is itself an adapter.
    """
    named = loading.base_model or base_of(adapter)
    try:
        base = find_origin(named, LoadingSettings())
    except ModelError as error:
        if loading.base_model is not None:
            raise
        raise ModelError(
            f"{adapter}: its base {named} was not found",
            "the checkpoint that the adapter was trained on",
            "give its current folder with --base-model FOLDER",
        ) from error
    if base.folder is not None and is_adapter(base.folder):
        raise ModelError(
            f"{base.name} is itself an adapter",
            "a whole checkpoint as the base",
            f"merge {base.name} into its base, and give the result with --base-model",
        )
    return base


def _local_folder(name: str) -> Path | None:
    """The checkpoint folder for a name; None for a hub name.

    Raises:
        ModelError: the name is neither a checkpoint folder nor a hub name.
    """
    path = expanded(name)
    if name and is_folder(path):
        if (path / "config.json").exists() or is_adapter(path):
            return path
        if (last := last_checkpoint(path)) is not None:
            return last
        raise ModelError(
            f"{name}: no config.json", "a Hugging Face checkpoint folder", "give the folder that contains config.json"
        )
    if path.suffix == ".gguf":
        raise ModelError(
            f"{name} is a GGUF file with quantised weights",
            "a checkpoint folder with safetensors",
            "use the checkpoint that the file was converted from",
        )
    if name and is_there(path):
        is_data = kind_suffix(path) in DATA_SUFFIXES and not (path.parent / "config.json").is_file()
        raise ModelError(
            f"{name}: a data file, not a checkpoint folder" if is_data else f"{name}: a file, not a checkpoint folder",
            "entangle scan MODEL DATA, in this order",
            "give the checkpoint first and the data second" if is_data else "give the folder that contains config.json",
        )
    if not is_hub_name(name):
        raise ModelError(
            f"{name}: no such folder",
            "a checkpoint folder, or a hub name with its organisation, such as openai-community/gpt2",
            "check the path, or add the organisation to the hub name",
        )
    return None


def identity_of(origin: Origin) -> dict[str, Any]:
    """Name, and the SHA-256 of every relevant file or the hub's commit; JSON-able.

    Raises:
        ModelError: a file changed since the origin was created.
    """
    if origin.folder is None:
        return {"name": origin.name, "commit": cached_commit(origin.name, origin.revision)}
    folder = origin.folder.resolve()
    if not is_folder(expanded(origin.name)):
        name = origin.name  # the download folder is named after its commit
    elif step_of(folder) is not None:
        name = f"{folder.parent.name}/{folder.name}"  # checkpoint-500 alone is not informative
    else:
        name = folder.name
    files = {file: fingerprint(path) for file, path in checkpoint_files(origin.folder).items()}
    changed = [file for file in files.keys() | origin.stamps.keys() if file not in files or file not in origin.stamps]
    changed += [file for file, hashed in files.items() if hashed.stamp != origin.stamps.get(file, hashed.stamp)]
    if changed:
        raise ModelError(
            f"{origin.folder / min(changed)}: changed while the checkpoint was loaded",
            "a checkpoint that does not change during the command",
            "rerun the command while nothing else writes to the folder",
        )
    refuse_changed(files.values(), ModelError)
    return {"name": name, "files": {file: hashed.sha256 for file, hashed in files.items()}}
