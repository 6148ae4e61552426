"""How many workers a cluster gets, and what each of them has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from entangle_cli.errors import UsageError
from entangle_cli.records.settings import ScanSettings, WorkerSettings

CORES_PER_WORKER = 4
"""Cores of a worker on a CPU, if neither the number of workers nor their cores are given."""
WORKERS_PER_TOKENIZER = 4
"""One process tokenises 1,500 pairs per second; a few workers do not measure as many."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a cluster has."""

    num_cpus: int
    num_gpus: int
    num_nodes: int = 1


@dataclass(frozen=True, slots=True)
class Team:
    """The processes of a scan."""

    num_workers: int
    num_cpus: int
    """CPU cores of a worker."""
    num_gpus: int
    """GPUs of a worker."""
    num_tokenizers: int
    """Processes that tokenise; 0 to tokenise in the main process."""
    num_sharing: int
    """Workers that share the memory of a machine."""


def team_for(wanted: WorkerSettings, scan: ScanSettings, available: Resources) -> Team:
    """The processes for a scan on a cluster.

    Raises:
        UsageError: the cluster does not have enough GPUs, or a device is given that only one worker could use.
    """
    if scan.device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {scan.device} with --workers",
            "auto, cpu or cuda: every worker has its own",
            "leave --device out",
        )
    if scan.device == "cpu" or (scan.device == "auto" and available.num_gpus == 0):
        return _on_cpus(wanted, available)
    num_workers = wanted.num_workers or max(1, available.num_gpus // wanted.gpus_per_worker)
    needed = num_workers * wanted.gpus_per_worker
    if needed > available.num_gpus:
        raise UsageError(
            f"--workers {num_workers} with {_gpus(wanted.gpus_per_worker)} each: {_gpus(available.num_gpus)} available",
            _gpus(needed),
            "lower --workers or --gpus-per-worker, or use --device cpu",
        )
    return _team(num_workers, wanted.threads_per_worker or 1, wanted.gpus_per_worker, available)


def _on_cpus(wanted: WorkerSettings, available: Resources) -> Team:
    if wanted.gpus_per_worker > 1:
        raise UsageError(
            f"--gpus-per-worker {wanted.gpus_per_worker}: no GPU is used",
            "GPUs in the cluster, and --device auto or cuda",
            "leave --gpus-per-worker out",
        )
    threads = wanted.threads_per_worker
    if wanted.num_workers is None:
        num_workers = max(1, available.num_cpus // (threads or CORES_PER_WORKER))
    else:
        num_workers = wanted.num_workers
    threads = threads or max(1, available.num_cpus // num_workers)
    if num_workers * threads > available.num_cpus:
        raise UsageError(
            f"--workers {num_workers} with {threads} threads each: {available.num_cpus} CPU cores available",
            f"{num_workers * threads} cores",
            "lower --workers or --threads-per-worker",
        )
    return _team(num_workers, threads, 0, available)


def _team(num_workers: int, num_cpus: int, num_gpus: int, available: Resources) -> Team:
    num_sharing = ceil(num_workers / available.num_nodes)
    return Team(num_workers, num_cpus, num_gpus, num_workers // WORKERS_PER_TOKENIZER, num_sharing)


def settings_of_worker(scan: ScanSettings, team: Team) -> ScanSettings:
    """The settings for a worker. Several GPUs of a worker share the model."""
    # Ray shows a worker only its own GPUs. A device map goes with `auto` alone.
    device = "auto" if team.num_gpus else "cpu"
    device_map = scan.device_map or ("balanced" if team.num_gpus > 1 else None)
    return replace(scan, device=device, device_map=device_map, workers=None)


def _gpus(number: int) -> str:
    return f"{number} GPU{'' if number == 1 else 's'}"
