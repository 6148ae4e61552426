"""Results of the probe: rules for rare layers, and models with misleading properties."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertLMHeadModel

from entangle_cli.engine.coverage import Rule
from entangle_cli.engine.engine import Engine
from entangle_cli.errors import ModelError
from tests.engine.pairs import assorted_pairs
from tests.engine.test_engine import assert_close, measure, truth
from tests.tiny_models import FAMILIES, VOCABULARY, tiny_model
from tests.tolerances import TOLERANCES
from tests.true_float64 import TrueFloat64


def bert(is_decoder: bool, dtype: torch.dtype) -> BertLMHeadModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        is_decoder=is_decoder,
    )
    model = BertLMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # With small initial weights, attention to other tokens is negligible.
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_model_that_sees_the_future_is_refused(dtype: torch.dtype) -> None:
    """BertLMHeadModel is listed as a causal LM, but is one only when its config says `is_decoder`."""
    model = bert(False, dtype)
    with (
        pytest.raises(ModelError, match="depends on the tokens after it"),
        Engine(model, dict(model.named_parameters())),
    ):
        pass
    decoder = bert(True, dtype)
    with Engine(decoder, dict(decoder.named_parameters())) as engine:
        assert not engine.plan.whole_model_slow


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_does_not_make_a_causal_model_seem_to_see_ahead(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family, dtype)
    with Engine(model, dict(model.named_parameters())) as engine:
        assert not engine.plan.reasons


class _Rarer(nn.Module):
    """The recognised functions that no tiny family uses: torch's own RMSNorm, a bare scale and a bare bias."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.norm = nn.RMSNorm(24, eps=1e-5, dtype=torch.float64)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 24, dtype=torch.float64))
        self.bias = nn.Parameter(torch.linspace(-1.0, 1.0, 24, dtype=torch.float64))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.scale * self.norm(self.inner(values)) + self.bias


def test_rarer_functions_have_rules_too() -> None:
    model = tiny_model("llama")
    model.model.layers[0].mlp = _Rarer(model.model.layers[0].mlp)
    pairs = assorted_pairs(VOCABULARY)
    with TrueFloat64():
        with Engine(model, dict(model.named_parameters())) as engine:
            rarer = [
                rule for name, rule in engine.plan.rules.items() if "layers.0.mlp." in name and "inner" not in name
            ]
            assert rarer == [Rule.VECTOR] * 3
        for pair, measured in zip(pairs, measure(model, pairs), strict=True):
            assert_close(measured, truth(model, pair), TOLERANCES[torch.float64])


class _Opaque(nn.Module):
    """Passes through a kernel that has a forward only, as some for quantised weights."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.ops.entangle_test.opaque(values))


def test_a_kernel_without_gradient_is_refused() -> None:
    library = torch.library.Library("entangle_test", "FRAGMENT")
    library.define("opaque(Tensor values) -> Tensor")
    library.impl("opaque", lambda values: 2.0 * values, "CPU")
    model = tiny_model("llama")
    model.model.layers[1].mlp = _Opaque(model.model.layers[1].mlp)
    with (
        pytest.raises(ModelError, match=r"entangle_test::opaque, which has no gradient"),
        Engine(model, dict(model.named_parameters())),
    ):
        pass
