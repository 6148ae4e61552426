"""Where a checkpoint comes from: a folder, a name on the hub, or an adapter's base; and what tells two apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entangle_cli.data.adapter import base_of, is_adapter
from entangle_cli.data.hub import adapter_folder, cached_commit, is_hub_name, is_only_cached
from entangle_cli.data.paths import expanded, is_folder, is_there
from entangle_cli.data.rows import file_sha256
from entangle_cli.data.series import last_checkpoint, step_of
from entangle_cli.errors import ModelError, UsageError
from entangle_cli.records import LoadingSettings

IDENTITY_SUFFIXES = {".json", ".jinja", ".safetensors", ".bin", ".model", ".txt", ".py"}
"""Files whose content decides what a checkpoint computes, or how its tokenizer reads."""


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

    @property
    def source(self) -> str:
        """What the libraries are told."""
        return self.name if self.folder is None else str(self.folder)


def find_origin(name: str, loading: LoadingSettings) -> Origin:
    """Where a name leads.

    Raises:
        ModelError: nowhere.
        UsageError: a revision of a folder.
    """
    folder = _local_folder(name)
    if folder is None:
        local_only = is_only_cached(name, loading.revision)
        adapter = adapter_folder(name, loading.revision, local_only=local_only)
        return Origin(name, adapter, None if adapter is not None else loading.revision, local_only)
    if loading.revision is not None:
        raise UsageError(
            f"--model-revision {loading.revision}: {name} is a folder",
            "a name on the hub",
            "leave --model-revision out",
        )
    return Origin(name, folder)


def base_origin(adapter: Path, loading: LoadingSettings) -> Origin:
    """The base of an adapter; a revision is the adapter's, not its base's."""
    base = find_origin(loading.base_model or base_of(adapter), LoadingSettings())
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
    if is_there(path) or not is_hub_name(name):
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
    files = sorted(path for path in folder.iterdir() if path.suffix in IDENTITY_SUFFIXES and path.is_file())
    return {"name": name, "files": {path.name: file_sha256(path) for path in files}}
