"""How many workers a cluster gets."""

from __future__ import annotations

import pytest

from entangle_cli.diagnose.workers.sizing import Resources, Team, settings_of_worker, team_for
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import ScanSettings, WorkerSettings

SCAN = ScanSettings()


@pytest.mark.parametrize(
    ("wanted", "available", "team"),
    [
        # Eight GPUs: one worker each, and two processes that tokenise for them.
        (WorkerSettings(), Resources(64, 8), Team(8, 1, 1, 2, 8)),
        (WorkerSettings(gpus_per_worker=2), Resources(64, 8), Team(4, 1, 2, 1, 4)),
        (WorkerSettings(3), Resources(64, 8), Team(3, 1, 1, 0, 3)),
        (WorkerSettings(), Resources(256, 32, num_nodes=4), Team(32, 1, 1, 8, 8)),
        # Without a GPU: four cores each.
        (WorkerSettings(), Resources(16, 0), Team(4, 4, 0, 1, 4)),
        (WorkerSettings(), Resources(2, 0), Team(1, 2, 0, 0, 1)),
        (WorkerSettings(threads_per_worker=1), Resources(2, 0), Team(2, 1, 0, 0, 2)),
        (WorkerSettings(2), Resources(16, 0), Team(2, 8, 0, 0, 2)),
        (WorkerSettings(2, threads_per_worker=3), Resources(16, 0), Team(2, 3, 0, 0, 2)),
    ],
)
def test_auto_uses_all_gpus_or_all_cores(wanted: WorkerSettings, available: Resources, team: Team) -> None:
    assert team_for(wanted, SCAN, available) == team


@pytest.mark.parametrize(
    ("wanted", "scan", "available", "found"),
    [
        (WorkerSettings(9), SCAN, Resources(64, 8), "--workers 9 with 1 GPU each: 8 GPUs available"),
        (WorkerSettings(3, 4), SCAN, Resources(64, 8), "--workers 3 with 4 GPUs each: 8 GPUs available"),
        (WorkerSettings(), ScanSettings(device="cuda"), Resources(64, 0), "with 1 GPU each: 0 GPUs available"),
        (WorkerSettings(), ScanSettings(device="cuda:1"), Resources(64, 8), "--device cuda:1 with --workers"),
        (WorkerSettings(2, 2), ScanSettings(device="cpu"), Resources(64, 8), "--gpus-per-worker 2: no GPU is used"),
        (WorkerSettings(4, threads_per_worker=2), SCAN, Resources(4, 0), "with 2 threads each: 4 CPU cores available"),
    ],
)
def test_what_a_cluster_does_not_have_is_refused(
    wanted: WorkerSettings, scan: ScanSettings, available: Resources, found: str
) -> None:
    with pytest.raises(UsageError, match=found):
        team_for(wanted, scan, available)


def test_a_worker_with_several_gpus_spreads_the_model() -> None:
    team = team_for(WorkerSettings(gpus_per_worker=2), SCAN, Resources(64, 8))
    assert settings_of_worker(SCAN, team).device_map == "balanced"
    assert settings_of_worker(ScanSettings(device_map="sequential"), team).device_map == "sequential"


def test_a_worker_without_gpus_does_not_look_for_one() -> None:
    team = team_for(WorkerSettings(2), SCAN, Resources(8, 0))
    settings = settings_of_worker(SCAN, team)
    assert (settings.device, settings.device_map, settings.workers) == ("cpu", None, None)
