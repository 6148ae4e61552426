"""The device that a model is put on."""

from __future__ import annotations

import torch

from entangle_cli.errors import UsageError

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def choose_device(name: str, device_map: str | None = None, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """The device of an option: `auto` is CUDA when there is one, and each process of several takes its own.

    Args:
        device_map: a name of `DEVICE_MAPS`, which decides instead, or None.
        local_rank: number of this process among those of one scan on this machine, from 0.
        local_size: how many those are.
    Raises:
        UsageError: not a device of this machine, a device and a map at once, or one device for several processes.
    """
    if local_size > 1:
        return _own_device(name, device_map, local_rank, local_size)
    if device_map is not None and (device_map not in DEVICE_MAPS or name != "auto"):
        raise UsageError(
            f"--device-map {device_map} with --device {name}",
            f"one of {', '.join(DEVICE_MAPS)}, and no --device",
            "name one of these maps, or leave --device-map or --device out",
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return _existing_device(name)


def _own_device(name: str, device_map: str | None, local_rank: int, local_size: int) -> torch.device:
    """The device of one process of several on this machine."""
    if device_map is not None or name not in ("auto", "cpu", "cuda"):
        chosen = f"--device {name}" if device_map is None else f"--device-map {device_map}"
        raise UsageError(
            f"{chosen} for {local_size} processes on one machine",
            "a device a process: auto, cpu or cuda",
            "leave it out, or start one process a machine (torchrun --nproc-per-node 1)",
        )
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if torch.cuda.is_available() and local_rank >= torch.cuda.device_count():
        raise UsageError(
            f"{local_size} processes on a machine with {torch.cuda.device_count()} CUDA devices",
            "a device a process",
            "lower torchrun's --nproc-per-node, or use --device cpu",
        )
    device = _existing_device(f"cuda:{local_rank}" if torch.cuda.is_available() else name)
    torch.cuda.set_device(device)  # for kernels that ask for the current device instead of their tensors'
    return device


def _existing_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"--device {name}: {str(error).splitlines()[0]}", "auto, cpu, cuda or cuda:N", "name a device that exists"
        ) from error
    return device
