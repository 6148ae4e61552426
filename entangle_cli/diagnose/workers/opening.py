"""Starts the workers of a scan on a cluster, and ends them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from entangle_cli.diagnose.workers.cluster import connected
from entangle_cli.diagnose.workers.dealer import BATCHES_PER_WORKER
from entangle_cli.diagnose.workers.pool import Notify, WorkerPool
from entangle_cli.diagnose.workers.sizing import Team, settings_of_worker, team_for
from entangle_cli.diagnose.workers.worker import Worker
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import ScanSettings, WorkerSettings

PASSED_VARIABLES = (
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_UPDATE_DOWNLOAD_COUNTS",
    "HF_HUB_OFFLINE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
)
"""Environment variables that workers on other machines get too. Ray may log them, so no token is among them."""


@contextmanager
def open_workers(model: Any, settings: ScanSettings, workers: WorkerSettings, notify: Notify) -> Iterator[WorkerPool]:
    """Start the workers of a scan on a Ray cluster, and wait for the first.

    Raises:
        ModelError: the checkpoint cannot be used.
        UsageError: the model is in memory; Ray is not installed or cannot be joined; or a setting does not fit.
        UnfinishedError: a worker died while it loaded the model.
    """
    if not isinstance(model, str | Path):
        raise UsageError(
            "workers with a model in memory",
            "a checkpoint's folder or hub name, which every worker can load",
            "save the model and pass its folder, or leave out `workers`",
        )
    # A template with a date must have the same one everywhere, also at midnight.
    day = settings.loading.template_date or date.today().isoformat()
    settings = replace(settings, loading=replace(settings.loading, template_date=day))
    with connected(workers) as available:
        team = team_for(workers, settings, available)
        actors = _started(str(model), settings_of_worker(settings, team), team)
        try:
            yield WorkerPool(str(model), settings, actors, team, notify)
        finally:
            _end(actors)


def _started(model: str, settings: ScanSettings, team: Team) -> list[Any]:
    import ray

    # Ray restarts a worker without end; the dealer decides when it is enough.
    remote: Any = ray.remote(Worker).options(
        num_cpus=team.num_cpus,
        num_gpus=team.num_gpus,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=BATCHES_PER_WORKER,
    )
    environment = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    arguments = (model, settings, Path.cwd(), max(1, team.num_cpus), team.num_sharing, environment)
    return [remote.remote(*arguments) for _ in range(team.num_workers)]


def _end(actors: Sequence[Any]) -> None:
    import ray

    for actor in actors:
        with suppress(ray.exceptions.RayError, ValueError):
            ray.kill(actor)
