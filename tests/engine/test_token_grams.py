"""The token Gram: against one whole-model gradient per token in float64, and against the pair's own numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from entangle_cli.engine import token_grams
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.per_response import response_log_prob
from entangle_cli.errors import ModelError
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse
from tests.engine.pairs import random_pair, whole_gram
from tests.tiny_models import VOCABULARY, tiny_model
from tests.true_float64 import TrueFloat64

FAMILIES = ["gpt2", "llama", "llama-tied-biased", "gemma2", "gemma3", "gpt-neox", "opt", "mixtral", "qwen3", "bloom"]


def brute_force(model: nn.Module, pair: TokenizedPair) -> tuple[Tensor, Tensor]:
    """Log-probs and Gram of all tokens, each by an ordinary backward pass over the whole model."""
    rows, log_probs = [], []
    for response in (pair.chosen, pair.rejected):
        for place in range(response.first_scored, len(response.ids)):
            log_prob = response_log_prob(model, TokenizedResponse(response.ids[: place + 1], place))
            gradients = torch.autograd.grad(log_prob, list(model.parameters()), allow_unused=True)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]))
            log_probs.append(log_prob.detach())
    stacked = torch.stack(rows)
    return torch.stack(log_probs).double(), stacked @ stacked.T


def pair_of(seed: int = 1, chosen: int = 6, rejected: int = 4) -> TokenizedPair:
    return random_pair(VOCABULARY, prompt=5, chosen=chosen, rejected=rejected, seed=seed, shared_words=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_entry_is_autograds(family: str) -> None:
    model = tiny_model(family)
    with TrueFloat64():
        log_probs, gram = brute_force(model, pair_of())
        found = whole_gram(model, dict(model.named_parameters()), pair_of(), 10_000)
    scale = gram.diagonal().sqrt()
    assert torch.allclose(found[1], log_probs, rtol=1e-9)
    assert float(((found[0] - gram) / torch.outer(scale, scale)).abs().max()) < 1e-8


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(("chosen", "rejected"), [(1, 1), (2, 7), (9, 2)])
def test_blocks_add_up_to_the_pairs_numbers(family: str, chosen: int, rejected: int) -> None:
    model = tiny_model(family)
    pair = random_pair(VOCABULARY, prompt=3, chosen=chosen, rejected=rejected, seed=7)
    with TrueFloat64(), Engine(model, dict(model.named_parameters())) as engine:
        measured = engine.measure([pair])[0]
    with TrueFloat64():
        gram = whole_gram(model, dict(model.named_parameters()), pair, 10_000)[0]
    assert float(gram[:chosen, :chosen].sum()) == pytest.approx(measured.chosen_squared_norm, rel=1e-9)
    assert float(gram[chosen:, chosen:].sum()) == pytest.approx(measured.rejected_squared_norm, rel=1e-9)
    assert float(gram[:chosen, chosen:].sum()) == pytest.approx(measured.inner_product, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("max_tokens", [24, 50, 90])
def test_blocks_of_rows_give_the_same(max_tokens: int) -> None:
    model = tiny_model("llama")
    with TrueFloat64():
        whole = whole_gram(model, dict(model.named_parameters()), pair_of(), 10_000)
        parts = whole_gram(model, dict(model.named_parameters()), pair_of(), max_tokens)
    assert torch.allclose(parts[0], whole[0], rtol=1e-9, atol=1e-9)
    assert torch.allclose(parts[1], whole[1])


@pytest.mark.parametrize("elements", [1, 100, 10_000])
def test_both_routes_give_the_same_whatever_is_held(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    parameters = dict(model.named_parameters())
    whole = whole_gram(model, parameters, pair_of(), 10_000)[0]
    monkeypatch.setattr(token_grams, "MATERIALISED_ELEMENTS", elements)
    assert torch.allclose(whole_gram(model, parameters, pair_of(), 10_000)[0], whole, rtol=1e-9, atol=1e-9)
    long = random_pair(VOCABULARY, prompt=30, chosen=20, rejected=15, seed=2)  # more tokens than inputs
    found = whole_gram(model, parameters, long, 10_000)[0]
    with Engine(model, parameters) as engine:
        assert float(found[:20, 20:].sum()) == pytest.approx(engine.measure([long])[0].inner_product, rel=1e-9)


def test_some_parameters_alone() -> None:
    model = tiny_model("gpt2")
    some = {name: parameter for name, parameter in model.named_parameters() if "mlp" in name}
    gram = whole_gram(model, some, pair_of(), 10_000)[0]
    with Engine(model, some) as engine:
        measured = engine.measure([pair_of()])[0]
    assert float(gram[:6, 6:].sum()) == pytest.approx(measured.inner_product, rel=1e-9)


def test_parameters_without_a_rule_are_refused() -> None:
    model = tiny_model("mamba")
    with pytest.raises(ModelError, match="no rule works token by token"):
        whole_gram(model, dict(model.named_parameters()), pair_of(), 10_000)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_model("gpt2").train()
    whole_gram(model, dict(model.named_parameters()), pair_of(), 10_000)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
