"""Runs of the shards of one scan, joined to the run that one process would have made."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from entangle_cli.errors import RunError, UnfinishedError, UsageError
from entangle_cli.records.run import Identity
from entangle_cli.store.files import damaged_file
from entangle_cli.store.reading import read_manifest
from entangle_cli.store.writing import open_run


def merge_runs(folders: Sequence[Path], output: Path) -> Path:
    """Write the run that complete runs of all shards of one scan add up to.

    Args:
        output: a new folder.
    Returns:
        The folder.
    Raises:
        RunError: one of them cannot be read, is not complete or is damaged.
        UsageError: they are not the shards of one scan, or the output is not new.
        UnfinishedError: the run cannot be written.
    """
    manifests = [read_manifest(folder) for folder in folders]
    _refuse_unfit(folders, manifests)
    if output.exists() and any(output.iterdir()):
        raise UsageError(f"-o {output}: the folder is not empty", "a new folder", "name another one")
    first = manifests[0]
    settings = {name: value for name, value in first["identity"]["settings"].items() if name != "shard"}
    identity = Identity({**first["identity"], "settings": settings})
    about = {name: value for name, value in first.items() if name not in OWN}
    if "plan" in about:
        selected = sum(manifest.get("plan", {}).get("num_selected", 0) for manifest in manifests)
        about["plan"] = {**about["plan"], "num_selected": selected}
    parts: list[dict[str, Any]] = []
    try:
        for folder, manifest in zip(folders, manifests, strict=True):
            for part in manifest["parts"]:
                parts.append({**part, "file": f"part-{len(parts):06d}.parquet"})
                for kind in ("pairs", "layers") if "layers_sha256" in part else ("pairs",):
                    (output / kind).mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / kind / part["file"], output / kind / parts[-1]["file"])
    except OSError as error:
        raise UnfinishedError(
            f"-o {output}: {error.strerror or error}",
            "room and permission to write the run",
            "make room, then try again",
        ) from error
    with open_run(output, identity, about) as writer:
        writer.take_parts(parts, sum(float(manifest["seconds"]) for manifest in manifests))
    return output


OWN = frozenset({"schema", "schema_version", "status", "started", "updated", "identity", "seconds", "parts"})
"""What a manifest says of its own run alone."""


def _refuse_unfit(folders: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> None:
    identities = [Identity(manifest["identity"]) for manifest in manifests]
    shards = [str(identity.settings.get("shard")) for identity in identities]
    for folder, manifest, identity, shard in zip(folders, manifests, identities, shards, strict=True):
        if manifest["status"] != "complete":
            raise RunError(f"{folder} is not complete", "complete runs", "give its scan command again")
        for part in manifest["parts"]:
            if (damaged := damaged_file(folder, part)) is not None:
                raise RunError(f"{damaged}: missing or changed", "the bytes that were written", "scan that shard again")
        if shard == "None":
            raise UsageError(f"{folder} is no shard", "runs of scan --shard", "name the shards' runs")
        if identity.differences(identities[0], ignoring={"shard"}):
            raise UsageError(
                f"{folder} and {folders[0]} are not of one scan",
                "one model, data set and settings",
                "name one scan's shards",
            )
    total = int(shards[0].partition("/")[2])
    wanted = [f"{number}/{total}" for number in range(1, total + 1)]
    if sorted(shards) != sorted(wanted):
        missing = [shard for shard in wanted if shard not in shards]
        found = f"shard {missing[0]} is missing" if missing else "a shard is there twice"
        raise UsageError(f"{len(shards)} runs: {found}", f"each of the {total} shards once", "name all of them")
