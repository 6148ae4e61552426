"""How many workers a cluster gets, and what each of them has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from entangle_cli.errors import UsageError
from entangle_cli.records.settings import ScanSettings, WorkerSettings
from entangle_cli.records.words import counted

CORES_PER_WORKER = 4
"""Cores of a worker on a CPU, if neither the number of workers nor their cores are given."""
WORKERS_PER_TOKENIZER = 4
"""One process tokenises 1,500 pairs per second; a few workers do not measure as many."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a machine of a cluster has."""

    num_cpus: int
    num_gpus: int = 0


@dataclass(frozen=True, slots=True)
class Resources:
    """What a cluster has. A worker fits into one machine."""

    nodes: Sequence[Node]

    @property
    def num_gpus(self) -> int:
        """GPUs of all machines."""
        return sum(node.num_gpus for node in self.nodes)

    def num_fitting(self, num_cpus: int, num_gpus: int) -> int:
        """Number of workers with these cores and GPUs each that run at a time."""
        return sum(_num_on(node, num_cpus, num_gpus) for node in self.nodes)

    def most_on_one(self, num_cpus: int, num_gpus: int) -> int:
        """The same on the machine with the most."""
        return max((_num_on(node, num_cpus, num_gpus) for node in self.nodes), default=0)


def _num_on(node: Node, num_cpus: int, num_gpus: int) -> int:
    by_kind = [have // need for have, need in ((node.num_cpus, num_cpus), (node.num_gpus, num_gpus)) if need]
    return min(by_kind)


@dataclass(frozen=True, slots=True)
class Team:
    """The processes of a scan."""

    num_workers: int
    num_cpus: int
    """CPU cores that are set aside for a worker; 0 beside a GPU."""
    num_gpus: int
    """GPUs of a worker."""
    num_tokenizers: int
    """Processes that tokenise; 0 to tokenise in the main process."""
    num_sharing: int
    """Workers that share the memory of a machine."""


def team_for(wanted: WorkerSettings, scan: ScanSettings, available: Resources) -> Team:
    """The processes for a scan on a cluster.

    Raises:
        UsageError: so many workers do not fit, or a device is given that only one worker could use.
    """
    if scan.device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {scan.device} with --workers",
            "auto, cpu or cuda: every worker has its own",
            "leave --device out",
        )
    if scan.device == "cpu" or (scan.device == "auto" and available.num_gpus == 0):
        return _on_cpus(wanted, scan, available)
    # Beside a GPU, cores are not counted unless they are asked for.
    threads = wanted.threads_per_worker or 0
    fitting = available.num_fitting(threads, wanted.gpus_per_worker)
    num_workers = wanted.num_workers or max(1, fitting)
    if num_workers > fitting:
        raise UsageError(
            f"--workers {num_workers} with {counted(wanted.gpus_per_worker, 'GPU')} each: "
            f"{fitting} fit into {_words(available)}",
            f"{counted(num_workers, 'worker')} that fit",
            "lower --workers, --gpus-per-worker or --threads-per-worker, or use --device cpu",
        )
    return _team(num_workers, threads, wanted.gpus_per_worker, available)


def _on_cpus(wanted: WorkerSettings, scan: ScanSettings, available: Resources) -> Team:
    if wanted.gpus_per_worker > 1 or scan.device_map is not None:
        raise UsageError(
            "--gpus-per-worker or --device-map without a GPU",
            "GPUs in the cluster, and --device auto or cuda",
            "leave the option out",
        )
    threads = wanted.threads_per_worker
    if threads is None:
        threads = CORES_PER_WORKER if wanted.num_workers is None else _equal_share(wanted.num_workers, available)
    fitting = available.num_fitting(threads, 0)
    if wanted.num_workers is None and fitting == 0:
        threads, fitting = max((node.num_cpus for node in available.nodes), default=1), 1
    num_workers = wanted.num_workers or fitting
    if num_workers > fitting:
        raise UsageError(
            f"--workers {num_workers} with {counted(threads, 'CPU core')} each: {fitting} fit into {_words(available)}",
            f"{counted(num_workers, 'worker')} that fit",
            "lower --workers or --threads-per-worker",
        )
    return _team(num_workers, threads, 0, available)


def _equal_share(num_workers: int, available: Resources) -> int:
    """The most cores with which so many workers fit, at least 1."""
    most = max((node.num_cpus for node in available.nodes), default=1)
    return next((cores for cores in range(most, 1, -1) if available.num_fitting(cores, 0) >= num_workers), 1)


def _team(num_workers: int, num_cpus: int, num_gpus: int, available: Resources) -> Team:
    num_sharing = min(num_workers, available.most_on_one(num_cpus, num_gpus))
    return Team(num_workers, num_cpus, num_gpus, num_workers // WORKERS_PER_TOKENIZER, num_sharing)


def settings_of_worker(scan: ScanSettings, team: Team) -> ScanSettings:
    """The settings for a worker. Several GPUs of a worker share the model."""
    # Ray shows a worker only its own GPUs. A device map goes with `auto` alone.
    device = "auto" if team.num_gpus else "cpu"
    device_map = scan.device_map or ("balanced" if team.num_gpus > 1 else None)
    return replace(scan, device=device, device_map=device_map, workers=None)


def _words(available: Resources) -> str:
    nodes = [f"{counted(node.num_cpus, 'core')} and {counted(node.num_gpus, 'GPU')}" for node in available.nodes]
    return f"{counted(len(nodes), 'machine')} ({'; '.join(sorted(set(nodes)))})"
