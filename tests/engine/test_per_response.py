"""The slow exact route for a model on several devices. `meta` replaces a second device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from entangle_cli.engine import per_response
from tests.engine.pairs import assorted_pairs
from tests.tiny_models import VOCABULARY, tiny_model

META = torch.device("meta")


def test_products_of_parameters_on_several_devices_meet_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    parameters = dict(list(model.named_parameters())[:4])
    gradients = per_response._gradients

    def spread(log_prob: Tensor, asked: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """Every second gradient on another device, as its parameter would be."""
        found = gradients(log_prob, asked)
        return {name: value.to(META) if place % 2 else value for place, (name, value) in enumerate(found.items())}

    monkeypatch.setattr(per_response, "_gradients", spread)
    pairs = assorted_pairs(VOCABULARY)[:2]
    groups = dict(zip(parameters, ("first", "first", "second", "second"), strict=True))
    result = per_response.measure_responses(model, pairs, parameters, META, groups)
    assert {product.device for product in result.products.values()} == {META}
    assert {group: product.shape for group, product in result.products.items()} == {"first": (3, 2), "second": (3, 2)}
