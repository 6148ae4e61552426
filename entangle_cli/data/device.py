"""Choice of the device for the model."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from entangle_cli.errors import UsageError

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def choose_device(name: str, device_map: str | None = None) -> torch.device:
    """Choose the device. `auto` is CUDA if available.

    Args:
        device_map: a name of `DEVICE_MAPS`, only with `auto`; None for a single device.
    Raises:
        UsageError: the device is not available, or a device and a map are both given.
    """
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
