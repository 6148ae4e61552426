"""How many tokens a batch may have: what is fast, or what fits into the memory that is free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")

FASTEST_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Larger batches gain no speed: measured on a CPU, assumed on CUDA."""

SMALLEST_TOKENS = 256

USABLE_SHARE = 0.5
"""Of free memory. The rest is for gradients, tiles, fragmentation, and what other programs will take."""


def batch_tokens(device: torch.device, bytes_per_token: int, local_size: int = 1) -> int:
    """The token budget of a batch, a power of two times `SMALLEST_TOKENS` so that little changes do not change it.

    Args:
        bytes_per_token: what a forward pass keeps for its backward.
        local_size: number of processes of the scan on this machine.
    """
    fastest = FASTEST_TOKENS.get(device.type, FASTEST_TOKENS["cpu"])
    return min(fastest, fitting_tokens(device, bytes_per_token, local_size) or fastest)


def fitting_tokens(device: torch.device, bytes_per_token: int, local_size: int = 1) -> int:
    """The largest batch that fits into free memory, such a power of two; 0 where nobody knows."""
    free = _free_bytes(device)
    if free is None or bytes_per_token == 0:
        return 0
    # Of a CUDA device each process has its own.
    num_sharing = 1 if device.type == "cuda" else local_size
    fitting = free * USABLE_SHARE / num_sharing / bytes_per_token
    tokens = SMALLEST_TOKENS
    while 2 * tokens <= fitting:
        tokens *= 2
    return tokens


def within_memory(work: Callable[[], Result]) -> Result | None:
    """The result of work; None if memory ran out, on a device or on the host. Then the device's cache is empty."""
    try:
        return work()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _free_bytes(device: torch.device) -> int | None:
    """Free memory of a device or of this host, within its control group; None where neither tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    sizes = [size for size in (_host_bytes(Path("/proc/meminfo")), _group_bytes(Path("/sys/fs/cgroup"))) if size]
    return min(sizes, default=None)


def _host_bytes(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _group_bytes(group: Path) -> int | None:
    """What a control group may still take; cached file pages are given back when asked for."""
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        current = int((group / "memory.current").read_text(encoding="ascii"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return limit - current + int(statistics["inactive_file"])
    except (OSError, ValueError, KeyError):
        return None
