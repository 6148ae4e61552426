"""Runs beside a run that measured the same pairs in another way."""

from __future__ import annotations

from pathlib import Path

from entangle_cli.errors import RunError
from entangle_cli.records.run import Identity, Run
from entangle_cli.store.reading import read_manifest, runs_in

MOST_RUNS = 200
"""Runs whose manifests are read, the newest ones."""


def run_with_all_weights(run: Run) -> Path | None:
    """The newest complete run beside this one with the same pairs, for the model without its planned adapter.

    None if this run has no planned adapter, is only in memory, or there is no such run.
    """
    if run.folder is None or "planned_adapter" not in run.identity.model:
        return None
    return next((folder for folder in runs_in(run.folder.parent)[:MOST_RUNS] if _is_whole(folder, run.identity)), None)


def _unused(identity: Identity) -> set[str]:
    """Settings that decide nothing: without a sample, the seed draws no rows."""
    return {"seed"} if identity.settings.get("sample") is None else set()


def _is_whole(folder: Path, adapted: Identity) -> bool:
    try:
        manifest = read_manifest(folder)
    except RunError:
        return False
    whole = Identity(manifest["identity"])
    without = {name: value for name, value in adapted.model.items() if name != "planned_adapter"}
    return (
        manifest["status"] == "complete"
        and whole.model == without
        and whole.settings.get("parameters") == "all"
        and not whole.differences(adapted, ignoring={"model", "parameters", *_unused(adapted)})
    )
