"""Experts on sorted tokens: the product, its gradient, and the products of the weights' gradients."""

from __future__ import annotations

import pytest
import torch

from entangle_cli.engine import expert_tokens
from entangle_cli.engine.expert_tokens import ExpertTokens, expert_products, grouped_product
from tests.engine.test_products import from_gradients

NUM_ROWS, NUM_EXPERTS = 6, 5


def gathered(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of 48 tokens, each row 8 times; ends of the experts' tokens; experts. Expert 3 has no token."""
    generator = torch.Generator().manual_seed(seed)
    rows_G = torch.arange(48)[torch.randperm(48, generator=generator)] % NUM_ROWS
    counts = torch.tensor([20, 9, 1, 0, 18])
    return rows_G, counts.cumsum(0).to(torch.int32), torch.arange(NUM_EXPERTS).repeat_interleave(counts)


@pytest.mark.parametrize("tile", [1, 3, 16, 256])
@pytest.mark.parametrize("seed", [0, 1])
def test_products_are_those_of_all_experts_gradients(seed: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_tokens, "TILE", tile)
    rows_G, ends_X, experts_G = gathered(seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(48, 4, dtype=torch.float64, generator=generator)
    gradients = torch.randn(48, 3, dtype=torch.float64, generator=generator)
    whole = torch.zeros(NUM_ROWS, NUM_EXPERTS, 4, 3, dtype=torch.float64)
    for row, expert, values, gradient in zip(rows_G, experts_G, inputs, gradients, strict=True):
        whole[row, expert] += torch.outer(values, gradient)
    tokens = expert_tokens.expert_tokens(rows_G, ends_X, NUM_ROWS)
    assert torch.equal(tokens.experts_G, experts_G)
    torch.testing.assert_close(expert_products(inputs, gradients, tokens), from_gradients(whole))


def test_only_the_runs_of_one_expert_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four experts with four tokens per pair each: 4 x 16 entries of 256."""
    monkeypatch.setattr(expert_tokens, "TILE", 4)
    tokens = ExpertTokens.sort(torch.arange(16) % 2, torch.arange(16) // 4, 2)
    assert tokens.ends.read()["tiles"].tolist() == [4, 8, 12, 16]


def test_without_data_a_run_may_be_as_long_as_all_tokens() -> None:
    meta = torch.zeros(512, dtype=torch.long, device="meta")
    assert ExpertTokens.sort(meta, meta, 2).ends.read()["tiles"].tolist() == [512, 512]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_token_is_multiplied_by_its_experts_weight(dtype: torch.dtype) -> None:
    _, ends_X, experts_G = gathered(0)
    inputs = torch.randn(48, 4, dtype=dtype, requires_grad=True)
    weight = torch.randn(NUM_EXPERTS, 3, 4, dtype=dtype)
    found = grouped_product(inputs, weight.mT, ends_X)
    expected = torch.einsum("gi,goi->go", inputs, weight[experts_G])
    torch.testing.assert_close(found, expected)
    seed = torch.randn_like(found)
    torch.testing.assert_close(torch.autograd.grad(found, inputs, seed), torch.autograd.grad(expected, inputs, seed))
