"""The unembedding's sweep against autograd through whole logits in float64."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from entangle_cli.engine import head_sweep
from entangle_cli.engine.head_products import head_products
from entangle_cli.engine.head_sweep import sweep_vocabulary
from entangle_cli.engine.scored import Scored
from entangle_cli.engine.unembedding import Unembedding

WIDTH, VOCABULARY = 48, 37
SCORED = Scored.from_lengths([3, 5, 1, 4], torch.device("cpu"))
"""Two pairs: rows 0 and 1 are chosen, 2 and 3 rejected."""


class Numbers(NamedTuple):
    log_probs_N: Tensor
    seed_ND: Tensor
    weight_products: Tensor
    bias_products: Tensor


def problem(sharpness: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, bias and targets. A higher sharpness gives more confident predictions."""
    generator = torch.Generator().manual_seed(0)
    weight_VD = torch.nn.functional.normalize(torch.randn(VOCABULARY, WIDTH, generator=generator))
    bias_V = 0.3 * torch.randn(VOCABULARY, generator=generator)
    targets_N = torch.randint(0, VOCABULARY, (13,), generator=generator)
    noise = 2.0 * torch.randn(13, WIDTH, generator=generator)
    hidden_ND = sharpness * weight_VD[targets_N] + noise
    return hidden_ND.to(dtype), weight_VD.to(dtype), bias_V.to(dtype), targets_N


def truth(head: Unembedding, hidden_ND: Tensor, targets_N: Tensor) -> Numbers:
    """Results from autograd in float64 on the same rounded inputs."""
    hidden = hidden_ND.double().requires_grad_()
    weight = head.weight_VD.double().requires_grad_()
    bias = None if head.bias_V is None else head.bias_V.double().requires_grad_()
    logits = torch.nn.functional.linear(hidden, weight, bias) * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    log_probs = logits.log_softmax(-1).gather(-1, targets_N[:, None]).squeeze(-1)
    (seed,) = torch.autograd.grad(log_probs.sum(), hidden, retain_graph=True)
    leaves = [weight] if bias is None else [weight, bias]
    rows = [torch.autograd.grad(log_probs[rows].sum(), leaves, retain_graph=True) for rows in SCORED.slices]

    def products(leaf: int) -> Tensor:
        flat = torch.stack([row[leaf].flatten() for row in rows])
        chosen, rejected = flat[:2], flat[2:]
        return torch.stack([chosen.square().sum(1), rejected.square().sum(1), (chosen * rejected).sum(1)])

    return Numbers(log_probs.detach(), seed, products(0), torch.empty(0) if bias is None else products(1))


HEADS = {
    "plain": {},
    "scaled": {"scale": 0.7},
    "capped": {"softcap": 4.0},
    "scaled and capped": {"scale": 1.3, "softcap": 4.0},
}


def sweep(head: Unembedding, hidden_ND: Tensor, targets_N: Tensor) -> Numbers:
    head_pass, grams = sweep_vocabulary(head, hidden_ND, targets_N, SCORED, with_grams=True)
    return Numbers(head_pass.log_probs_N, head_pass.seed_ND, *head_products(head_pass, head, grams))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk_columns", [5, 37])
@pytest.mark.parametrize("kind", HEADS)
def test_the_sweep_equals_autograd(
    kind: str, chunk_columns: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(head_sweep.CHUNK_BYTES, "cpu", 4 * 13 * chunk_columns)
    hidden, weight, bias, targets = problem(1.0, torch.float64)
    head = Unembedding(weight, bias if with_bias else None, **HEADS[kind])
    ours, expected = sweep(head, hidden, targets), truth(head, hidden, targets)
    torch.testing.assert_close(ours.log_probs_N, expected.log_probs_N, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.seed_ND, expected.seed_ND, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.weight_products, expected.weight_products, rtol=1e-10, atol=1e-12)
    if with_bias:
        torch.testing.assert_close(ours.bias_products, expected.bias_products, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sharpness", [18.0, 28.0])
def test_confident_positions_keep_their_digits_in_float32(sharpness: float) -> None:
    """One-hot minus softmax would lose what 1 - p loses: at 1 - p = 1e-6 about a tenth of each product."""
    hidden, weight, _, targets = problem(sharpness, torch.float32)
    head = Unembedding(weight)
    ours, expected = sweep(head, hidden, targets), truth(head, hidden, targets)
    assert float((-expected.log_probs_N).median()) < 1e-3
    # Rounding of the logits (up to 30, so 2e-6 each) is a relative error of the small probabilities.
    torch.testing.assert_close(ours.weight_products, expected.weight_products, rtol=2e-5, atol=0.0)
    torch.testing.assert_close(ours.log_probs_N, expected.log_probs_N, rtol=2e-5, atol=0.0)
    torch.testing.assert_close(ours.seed_ND.double(), expected.seed_ND, rtol=1e-4, atol=1e-9)
