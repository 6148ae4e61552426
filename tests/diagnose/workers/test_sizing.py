"""How many workers a cluster gets."""

from __future__ import annotations

import pytest

from entangle_cli.diagnose.workers.sizing import Node, Resources, Team, settings_of_worker, team_for
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import ScanSettings, WorkerSettings

SCAN = ScanSettings()


EIGHT_GPUS = Resources([Node(64, 8)])
FOUR_MACHINES = Resources([Node(64, 8)] * 4)


def cores(*numbers: int) -> Resources:
    return Resources([Node(number) for number in numbers])


@pytest.mark.parametrize(
    ("wanted", "available", "team"),
    [
        # Eight GPUs: one worker each, and two processes that tokenise for them.
        (WorkerSettings(), EIGHT_GPUS, Team(8, 0, 1, 2, 8)),
        (WorkerSettings(gpus_per_worker=2), EIGHT_GPUS, Team(4, 0, 2, 1, 4)),
        (WorkerSettings(3), EIGHT_GPUS, Team(3, 0, 1, 0, 3)),
        (WorkerSettings(), FOUR_MACHINES, Team(32, 0, 1, 8, 8)),
        # Fewer cores than GPUs: cores are not counted beside a GPU, unless they are asked for.
        (WorkerSettings(), Resources([Node(4, 8)]), Team(8, 0, 1, 2, 8)),
        (WorkerSettings(threads_per_worker=2), Resources([Node(4, 8)]), Team(2, 2, 1, 0, 2)),
        # A worker fits into one machine: three of four GPUs leave one over on each.
        (WorkerSettings(gpus_per_worker=3), Resources([Node(64, 4), Node(64, 4)]), Team(2, 0, 3, 0, 1)),
        # Without a GPU: four cores each.
        (WorkerSettings(), cores(16), Team(4, 4, 0, 1, 4)),
        (WorkerSettings(), cores(2), Team(1, 2, 0, 0, 1)),
        (WorkerSettings(threads_per_worker=1), cores(2), Team(2, 1, 0, 0, 2)),
        (WorkerSettings(2), cores(16), Team(2, 8, 0, 0, 2)),
        (WorkerSettings(2, threads_per_worker=3), cores(16), Team(2, 3, 0, 0, 2)),
        # Ten cores each would leave no room for the third.
        (WorkerSettings(3), cores(16, 16), Team(3, 8, 0, 0, 2)),
    ],
)
def test_auto_uses_all_gpus_or_all_cores(wanted: WorkerSettings, available: Resources, team: Team) -> None:
    assert team_for(wanted, SCAN, available) == team


@pytest.mark.parametrize(
    ("wanted", "scan", "available", "found"),
    [
        (
            WorkerSettings(9),
            SCAN,
            EIGHT_GPUS,
            r"9 with 1 GPU each: 8 fit into 1 machine \(64 cores and 8 GPUs\)",
        ),
        (WorkerSettings(3, 4), SCAN, EIGHT_GPUS, "--workers 3 with 4 GPUs each: 2 fit"),
        (
            WorkerSettings(1, 8),
            SCAN,
            Resources([Node(64, 4)] * 2),
            "1 with 8 GPUs each: 0 fit into 2 machines",
        ),
        (WorkerSettings(), ScanSettings(device="cuda"), cores(64), "--workers 1 with 1 GPU each: 0 fit"),
        (WorkerSettings(), ScanSettings(device="cuda:1"), EIGHT_GPUS, "--device cuda:1 with --workers"),
        (WorkerSettings(2, 2), ScanSettings(device="cpu"), EIGHT_GPUS, "without a GPU"),
        (WorkerSettings(2), ScanSettings(device_map="balanced"), cores(8), "--device-map without a GPU"),
        (WorkerSettings(4, threads_per_worker=2), SCAN, cores(4), "--workers 4 with 2 CPU cores each: 2 fit"),
    ],
)
def test_what_a_cluster_does_not_have_is_refused(
    wanted: WorkerSettings, scan: ScanSettings, available: Resources, found: str
) -> None:
    with pytest.raises(UsageError, match=found):
        team_for(wanted, scan, available)


def test_a_worker_with_several_gpus_spreads_the_model() -> None:
    team = team_for(WorkerSettings(gpus_per_worker=2), SCAN, EIGHT_GPUS)
    assert settings_of_worker(SCAN, team).device_map == "balanced"
    assert settings_of_worker(ScanSettings(device_map="sequential"), team).device_map == "sequential"


def test_a_worker_without_gpus_does_not_look_for_one() -> None:
    team = team_for(WorkerSettings(2), SCAN, cores(8))
    settings = settings_of_worker(SCAN, team)
    assert (settings.device, settings.device_map, settings.workers) == ("cpu", None, None)
