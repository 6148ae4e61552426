"""Merging the shards of one scan into the run that a single process would have written."""

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
    """Merge complete runs of all shards of one scan into one run.

    Args:
        output: a new or empty folder.
    Returns:
        The output folder.
    Raises:
        RunError: a run cannot be read, is incomplete or is damaged.
        UsageError: the runs are not all shards of one scan, or the output folder is not empty.
        UnfinishedError: the merged run cannot be written.
    """
    manifests = [read_manifest(folder) for folder in folders]
    _refuse_unfit(folders, manifests)
    if output.exists() and any(output.iterdir()):
        raise UsageError(f"-o {output}: the folder is not empty", "a new folder", "choose another folder")
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
            "space and permission to write the run",
            "free some space or check the permissions, then rerun the command",
        ) from error
    with open_run(output, identity, about) as writer:
        writer.take_parts(parts, sum(float(manifest["seconds"]) for manifest in manifests))
    return output


OWN = frozenset({"schema", "schema_version", "status", "started", "updated", "identity", "seconds", "parts"})
"""Manifest entries that describe one run only. Merging does not copy them."""


def _refuse_unfit(folders: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> None:
    identities = [Identity(manifest["identity"]) for manifest in manifests]
    shards = [str(identity.settings.get("shard")) for identity in identities]
    for folder, manifest, identity, shard in zip(folders, manifests, identities, shards, strict=True):
        if manifest["status"] != "complete":
            raise RunError(f"{folder} is incomplete", "complete runs", "rerun its scan command to finish it")
        for part in manifest["parts"]:
            if (damaged := damaged_file(folder, part)) is not None:
                raise RunError(
                    f"{damaged}: missing or changed", "the file as it was written", "rerun the scan of this shard"
                )
        if shard == "None":
            raise UsageError(
                f"{folder} is not a shard", "runs of scan --shard", "pass only runs made with --shard, all of one scan"
            )
        if identity.differences(identities[0], ignoring={"shard"}):
            raise UsageError(
                f"{folder} and {folders[0]} are shards of different scans",
                "shards with the same model, data set and settings",
                "pass only the shards of one scan",
            )
    total = int(shards[0].partition("/")[2])
    wanted = [f"{number}/{total}" for number in range(1, total + 1)]
    if sorted(shards) != sorted(wanted):
        missing = [shard for shard in wanted if shard not in shards]
        problem = f"shard {missing[0]} is missing" if missing else "a shard is given twice"
        raise UsageError(f"{len(shards)} runs: {problem}", f"all {total} shards, once each", "pass every shard once")
