"""Devices: existence, and how weights get to them."""

from __future__ import annotations

import pytest
import torch

from entangle_cli.data.device import choose_device, loading_map
from entangle_cli.errors import ExitCode, UsageError

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:63", "nonsense", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    if torch.cuda.is_available() and name in ("cuda", "cuda:0"):
        pytest.skip("this machine has it")
    with pytest.raises(UsageError) as caught:
        choose_device(name)
    assert caught.value.found.startswith(f"--device {name}: ")
    assert caught.value.exit_code is ExitCode.USAGE


def test_the_meta_device_is_refused() -> None:
    with pytest.raises(UsageError):
        choose_device("meta")


def test_auto_is_cuda_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == CPU


def test_a_device_map_and_a_device_are_refused_together() -> None:
    for name, device_map in (("cpu", "auto"), ("auto", "somewhere")):
        with pytest.raises(UsageError, match="--device-map"):
            choose_device(name, device_map)


def test_weights_of_a_gpu_are_read_straight_to_it_where_accelerate_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda:1")
    assert loading_map(cuda, None) == {"": cuda}
    assert loading_map(cuda, "balanced") == "balanced"
    assert loading_map(CPU, None) is None
    monkeypatch.setattr("entangle_cli.data.device.find_spec", lambda name: None)
    assert loading_map(cuda, None) is None
