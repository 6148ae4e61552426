"""A model on two devices. The first layers are on a CPU, the rest on the meta device in place of a second GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from entangle_cli.engine.batch import make_batch
from entangle_cli.engine.distinct_tokens import TokenLayout
from entangle_cli.engine.model import find_unembedding, prepared
from entangle_cli.engine.pair_products import Route, measure_batch
from tests.engine.pairs import assorted_pairs
from tests.meta_device import META, counted_mask_checks
from tests.tiny_models import VOCABULARY, tiny_model

CPU = torch.device("cpu")


class Moved(torch.autograd.Function):
    """A copy to another device. Values of the meta device become zeros."""

    @staticmethod
    def forward(context: Any, values: Tensor, device: torch.device) -> Tensor:
        context.device = values.device
        return torch.zeros_like(values, device=device)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.zeros_like(gradient, device=context.device), None


def moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple):
        return tuple(moved(item, device) for item in value)
    if not isinstance(value, Tensor) or value.device == device:
        return value
    result: Tensor = Moved.apply(value, device)  # type: ignore[no-untyped-call]
    return result


def on_device(module: nn.Module, device: torch.device) -> None:
    """Put a module on a device and move what it is called with there, as accelerate does."""
    module.to(device)
    module.register_forward_pre_hook(
        lambda _, args, kwargs: (
            moved(args, device),
            {name: moved(value, device) for name, value in kwargs.items()},
        ),
        with_kwargs=True,
    )


def spread_model(family: str) -> PreTrainedModel:
    """Embedding and first layer on the CPU, the rest on the meta device."""
    model = tiny_model(family, torch.bfloat16)
    on_device(model.model.embed_tokens, CPU)
    on_device(model.model.rotary_emb, CPU)
    for number, layer in enumerate(model.model.layers):
        on_device(layer, META if number else CPU)
    on_device(model.model.norm, META)
    on_device(model.lm_head, META)
    return model


@pytest.mark.parametrize("route", [Route.GRAM, Route.MATERIALISED])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mixtral"])
def test_products_of_several_devices_meet_on_one(family: str, route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    model = spread_model(family)
    pairs = assorted_pairs(VOCABULARY)
    layouts = {device: make_batch(pairs, device).layout for device in (CPU, META)}
    monkeypatch.setattr(TokenLayout, "to", lambda _, device: layouts[torch.device(device)])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    with prepared(model), counted_mask_checks():
        batch = make_batch(pairs, META)
        result = measure_batch(model, find_unembedding(model), batch, names, route)
    assert result.products.keys() == set(names.values())
    assert {product.device for product in result.products.values()} == {META}
