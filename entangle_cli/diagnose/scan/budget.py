"""Tokens per batch: limited by speed and by free memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from entangle_cli.errors import is_out_of_memory

Result = TypeVar("Result")

HOST_TOKENS = 2048
"""Larger batches are no faster on a CPU (measured)."""

DEVICE_TOKENS = (2048, 32768)
"""Least and most tokens per batch on a GPU. By estimate, no model gains from more (tests/benchmarks/roofline.py)."""

DEVICE_FLOPS = {2: 4e14, 4: 3e13}
"""Flops per batch on a GPU, by bytes of a number: about 0.6 s on an H100. Launches then take a small share of it."""

SMALLEST_TOKENS = 256

USABLE_SHARE = 0.5
"""Usable share of free memory. The rest is for gradients, tiles, fragmentation and other programs."""


def batch_tokens(device: torch.device, model: nn.Module, bytes_per_token: int, num_sharing: int = 1) -> int:
    """Tokens per batch: a power of two times `SMALLEST_TOKENS`. Small changes in free memory rarely affect it.

    Args:
        bytes_per_token: memory that a forward pass keeps for its backward pass.
        num_sharing: number of processes that share the memory of this machine. A CUDA device belongs to one.
    """
    fastest = fastest_tokens(device, model)
    return min(fastest, fitting_tokens(device, bytes_per_token, num_sharing) or fastest)


def fastest_tokens(device: torch.device, model: nn.Module) -> int:
    """Tokens per batch beyond which a batch is no faster. A large model needs fewer to keep a GPU busy."""
    if device.type == "cpu":
        return HOST_TOKENS
    parameters = list(model.parameters())
    flops = DEVICE_FLOPS[2 if parameters[0].dtype.itemsize <= 2 else 4]
    # A forward pass and a backward pass with activation gradients take 4 flops per token and parameter.
    enough = flops / (4 * sum(parameter.numel() for parameter in parameters))
    least, most = DEVICE_TOKENS
    return min(most, max(least, _power_of_two(enough)))


def fitting_tokens(device: torch.device, bytes_per_token: int, num_sharing: int = 1) -> int:
    """Tokens of the largest batch that fits into free memory, rounded as in `batch_tokens`; 0 if unknown."""
    free = free_bytes(device)
    if free is None or bytes_per_token == 0:
        return 0
    num_shares = 1 if device.type == "cuda" else num_sharing
    return _power_of_two(free * USABLE_SHARE / num_shares / bytes_per_token)


def _power_of_two(tokens: float) -> int:
    """The largest `SMALLEST_TOKENS` times a power of two that is not above `tokens`, and at least `SMALLEST_TOKENS`."""
    rounded = SMALLEST_TOKENS
    while 2 * rounded <= tokens:
        rounded *= 2
    return rounded


def within_memory(work: Callable[[], Result]) -> Result | None:
    """Return the result of `work`. If memory runs out on device or host, empty the device cache and return None."""
    try:
        return work()
    except Exception as error:  # a full device shows itself as several types of error
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a CUDA device, or of this host within its control group; None if unknown."""
    if device.type == "cuda":
        # torch keeps what it frees. The driver counts it as used, but the next batch gets it.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    sizes = [size for size in (_host_bytes(Path("/proc/meminfo")), _group_bytes(Path("/sys/fs/cgroup"))) if size]
    return min(sizes, default=None)


def _host_bytes(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _group_bytes(group: Path) -> int | None:
    """Memory that the control group can still allocate. Cached file pages count as free."""
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        current = int((group / "memory.current").read_text(encoding="ascii"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return limit - current + int(statistics["inactive_file"])
    except (OSError, ValueError, KeyError):
        return None
