"""Choice of the device for the model."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from entangle_cli.errors import UsageError

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def choose_device(name: str, device_map: str | None = None, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """Choose the device. `auto` is CUDA if available. With several processes, each gets its own CUDA device.

    Args:
        device_map: a name of `DEVICE_MAPS`, only with `auto`; None for a single device.
        local_rank: index of this process among the scan's processes on this machine, from 0.
        local_size: number of the scan's processes on this machine.
    Raises:
        UsageError: the device is not available, a device and a map are both given, or several processes would share
            one device.
    """
    if local_size > 1:
        return _own_device(name, device_map, local_rank, local_size)
    if device_map is not None and (device_map not in DEVICE_MAPS or name != "auto"):
        raise UsageError(
            f"--device-map {device_map} with --device {name}",
            f"one of {', '.join(DEVICE_MAPS)}, and no --device",
            "use one of these maps without --device, or omit --device-map",
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return _existing_device(name)


def loading_map(device: torch.device, device_map: str | None) -> str | dict[str, torch.device] | None:
    """transformers' `device_map` for loading: weights of a GPU are read straight to it, if accelerate is installed.

    Otherwise they pass through the host's memory.
    """
    is_direct = device_map is None and device.type == "cuda" and find_spec("accelerate") is not None
    return {"": device} if is_direct else device_map


def _own_device(name: str, device_map: str | None, local_rank: int, local_size: int) -> torch.device:
    """The device of one process of several on this machine."""
    if device_map is not None or name not in ("auto", "cpu", "cuda"):
        chosen = f"--device {name}" if device_map is None else f"--device-map {device_map}"
        raise UsageError(
            f"{chosen} for {local_size} processes on one machine",
            "one device per process: --device auto, cpu or cuda",
            "omit the option, or start one process per machine (torchrun --nproc-per-node 1)",
        )
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if torch.cuda.is_available() and local_rank >= torch.cuda.device_count():
        raise UsageError(
            f"{local_size} processes on a machine with {torch.cuda.device_count()} CUDA devices",
            "one device per process",
            "lower torchrun's --nproc-per-node, or use --device cpu",
        )
    device = _existing_device(f"cuda:{local_rank}" if torch.cuda.is_available() else name)
    torch.cuda.set_device(device)  # for kernels that use the current device instead of their tensors' device
    return device


def _existing_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"--device {name}: {str(error).splitlines()[0]}",
            "auto, cpu, cuda or cuda:N",
            "use an available device, or --device cpu",
        ) from error
    return device
