"""Computing in another dtype for a while, without touching the weights."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32

from entangle_cli.engine.compute_dtype import computing_in
from tests.tiny_models import tiny_model

IDS = torch.arange(3, 15)[None]


def under_autocast(model: Any) -> Any:
    """The model as accelerate prepares it for bf16."""
    model._original_forward = model.forward
    with_autocast = torch.autocast("cpu", torch.bfloat16)(model.forward.__func__)
    model.forward = MethodType(convert_outputs_to_fp32(with_autocast), model)
    return model


@pytest.mark.parametrize("family", ["llama", "llama-tied-biased", "gpt2"])
def test_the_logits_are_those_of_a_converted_model(family: str) -> None:
    converted = tiny_model(family).float().eval()
    for parameter in converted.parameters():  # not the buffers: rotary frequencies stay in float32, as when loaded
        parameter.data = parameter.data.to(torch.bfloat16)
    model = under_autocast(tiny_model(family).float().eval())
    before = {name: (parameter, parameter.clone()) for name, parameter in model.named_parameters()}
    prepared = model.forward
    with torch.no_grad(), computing_in(model, torch.bfloat16):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert [name for name, _ in model.named_parameters()] == list(before)
        assert torch.equal(model(IDS).logits, converted(IDS).logits)
    assert model.forward == prepared
    for name, parameter in model.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])


def test_autocast_is_left_out_in_the_model_s_own_dtype() -> None:
    plain, model = tiny_model("llama").float().eval(), under_autocast(tiny_model("llama").float().eval())
    with torch.no_grad():
        assert not torch.equal(model(IDS).logits, plain(IDS).logits)
        with computing_in(model, torch.float32):
            assert torch.equal(model(IDS).logits, plain(IDS).logits)


def test_everything_is_put_back_after_an_error() -> None:
    model = tiny_model("llama").float()
    before = list(model.parameters())
    with pytest.raises(ZeroDivisionError), computing_in(model, torch.bfloat16):
        raise ZeroDivisionError
    assert all(now is then for now, then in zip(model.parameters(), before, strict=True))
