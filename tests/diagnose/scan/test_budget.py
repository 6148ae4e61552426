"""Free memory and running out of it, with a device that is only pretended."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from entangle_cli.diagnose.scan.budget import fastest_tokens, fitting_tokens, within_memory

MIB = 2**20


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=str,
)
def test_every_text_of_a_full_device_or_host_is_recognised(error: Exception) -> None:
    def full() -> int:
        raise error

    assert within_memory(full) is None
    assert within_memory(lambda: 3) == 3


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("out of range"),
    ],
    ids=str,
)
def test_other_errors_of_a_device_are_raised(error: Exception) -> None:
    def broken() -> int:
        raise error

    with pytest.raises(type(error), match=str(error)):
        within_memory(broken)


def test_memory_that_torch_keeps_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver reports 512 MiB. torch keeps 2048 MiB and uses 1024 of them, so 1536 MiB are free."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (512 * MIB, 8192 * MIB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 2048 * MIB)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 1024 * MIB)
    # Half of it at 768 KiB per token: 1024 tokens.
    assert fitting_tokens(torch.device("cuda"), 768 * 1024) == 1024
    assert fitting_tokens(torch.device("cuda"), 768 * 1024 + 1) == 512


@pytest.mark.parametrize(
    ("num_parameters", "dtype", "tokens"),
    [
        (124e6, torch.bfloat16, 32768),
        (0.5e9, torch.bfloat16, 32768),
        (1.2e9, torch.bfloat16, 32768),
        (8e9, torch.bfloat16, 8192),
        (70e9, torch.bfloat16, 2048),
        (124e6, torch.float32, 32768),
        (1.2e9, torch.float32, 4096),
        (8e9, torch.float32, 2048),
    ],
)
def test_a_large_model_needs_fewer_tokens_to_keep_a_gpu_busy(
    num_parameters: float, dtype: torch.dtype, tokens: int
) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.empty(int(num_parameters), device="meta", dtype=dtype))
    assert fastest_tokens(torch.device("cuda"), model) == tokens
    assert fastest_tokens(torch.device("cpu"), model) == 2048
