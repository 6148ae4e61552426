"""Log-probs and weighted gradients against the engine's and against plain autograd."""

from __future__ import annotations

import pytest
import torch

from entangle_cli.engine import head_sweep
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.scorer import Scorer
from tests.engine.pairs import assorted_pairs
from tests.oracle import response_gradient
from tests.tiny_models import VOCABULARY, tiny_model
from tests.true_float64 import TrueFloat64

FAMILIES = ["gpt2", "llama", "gemma2", "cohere", "mixtral", "mamba"]


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_are_those_that_the_engine_gives(family: str) -> None:
    model, pairs = tiny_model(family), assorted_pairs(VOCABULARY)
    with TrueFloat64(), Engine(model, dict(model.named_parameters())) as engine, Scorer(model) as scorer:
        chosen, rejected = scorer.log_probs(pairs).tolist()
        for place, measured in enumerate(engine.measure(pairs)):
            assert chosen[place] == pytest.approx(measured.chosen_log_prob, rel=1e-11)
            assert rejected[place] == pytest.approx(measured.rejected_log_prob, rel=1e-11)


@pytest.mark.parametrize("chunk", [None, 4 * VOCABULARY * 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_weighted_gradient_is_the_sum_of_autograds(
    family: str, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk is not None:
        monkeypatch.setitem(head_sweep.CHUNK_BYTES, "cpu", chunk)
    model, pairs = tiny_model(family), assorted_pairs(VOCABULARY)
    parameters = dict(model.named_parameters())
    weights = torch.randn(2, len(pairs), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with TrueFloat64():
        with Scorer(model) as scorer:
            batches = [(pairs[:1], weights[:, :1]), (pairs[1:], weights[:, 1:])]
            found = scorer.weighted_gradient(batches, parameters)
        assert all(parameter.grad is None for parameter in parameters.values())
        expected = 0.0
        for pair, (chosen, rejected) in zip(pairs, weights.T.tolist(), strict=True):
            for side, weight in ((pair.chosen, chosen), (pair.rejected, rejected)):
                gradient = response_gradient(model, side.ids, side.first_scored, list(parameters.values()))[1]
                expected = expected + weight * gradient
    flat = torch.cat([found[name].flatten() for name in parameters])
    torch.testing.assert_close(flat, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_logits_that_are_not_the_unembedding_are_the_models_own() -> None:
    model, pairs = tiny_model("llama"), assorted_pairs(VOCABULARY)
    forward = model.forward

    def warmer(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.logits = output.logits / 2
        return output

    model.forward = warmer
    parameters = dict(model.named_parameters())
    with Scorer(model) as scorer:
        found = scorer.log_probs(pairs)
        gradient = scorer.weighted_gradient([(pairs[:1], torch.tensor([[1.0], [0.0]]))], parameters)
    log_prob, expected = response_gradient(
        model, pairs[0].chosen.ids, pairs[0].chosen.first_scored, list(parameters.values())
    )
    assert float(found[0, 0]) == pytest.approx(log_prob, rel=1e-9)
    flat = torch.cat([gradient[name].flatten() for name in parameters])
    torch.testing.assert_close(flat, expected, rtol=1e-9, atol=1e-9)
