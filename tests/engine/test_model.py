"""Preparation of a model."""

from __future__ import annotations

import torch

from entangle_cli.engine.model import attention_without_plans


def test_a_gpu_uses_no_attention_that_plans_every_shape() -> None:
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with attention_without_plans(torch.device("cuda")):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.mem_efficient_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_a_cpu_keeps_its_attention() -> None:
    with attention_without_plans(torch.device("cpu")):
        assert torch.backends.cuda.cudnn_sdp_enabled()
