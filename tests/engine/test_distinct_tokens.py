"""Linear layers that run once per distinct token: same outputs and gradients as for every position."""

from __future__ import annotations

import pytest
import torch

from entangle_cli.engine.distinct_tokens import TokenLayout, linear_on_distinct_tokens

LENGTHS = (6, 4, 5, 6)
SHARED = (3, 2)
NUM_TOKENS = 7
"""Rows: chosen of two pairs, then rejected; one position is padding in every row."""


def rows_with_shared_starts(width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    values_BTI = torch.randn(4, NUM_TOKENS, width, generator=generator, dtype=torch.float64)
    for pair, shared in enumerate(SHARED):
        values_BTI[pair + 2, :shared] = values_BTI[pair, :shared]
    return values_BTI


def is_real() -> torch.Tensor:
    return torch.arange(NUM_TOKENS) < torch.tensor(LENGTHS).unsqueeze(1)


def test_shared_starts_and_padding_are_left_out() -> None:
    layout = TokenLayout.from_lengths(LENGTHS, SHARED, NUM_TOKENS)
    assert layout.computed_E.numel() == sum(LENGTHS) - sum(SHARED)
    assert layout.real_L.numel() == sum(LENGTHS)
    places = layout.computed_E[layout.source_F].view(4, NUM_TOKENS)
    own = torch.arange(4 * NUM_TOKENS).view(4, NUM_TOKENS)
    for pair, shared in enumerate(SHARED):
        assert torch.equal(places[pair + 2, :shared], own[pair, :shared])
        assert torch.equal(places[pair + 2, shared : LENGTHS[pair + 2]], own[pair + 2, shared : LENGTHS[pair + 2]])


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_outputs_and_gradients_are_those_of_the_plain_layer(flat: bool, with_bias: bool) -> None:
    inputs = rows_with_shared_starts(5)
    inputs = (inputs.view(-1, 5) if flat else inputs).requires_grad_()
    weight_IO = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bias_O = torch.randn(3, dtype=torch.float64) if with_bias else None
    layout = TokenLayout.from_lengths(LENGTHS, SHARED, NUM_TOKENS)
    outputs = linear_on_distinct_tokens(inputs, weight_IO, bias_O, layout)
    plain = inputs @ weight_IO + (0.0 if bias_O is None else bias_O)
    assert outputs.shape == plain.shape
    real = is_real().view(-1) if flat else is_real()
    assert torch.allclose(outputs[real], plain[real], rtol=1e-13)
    # The rows of a pair get different gradients at shared positions too; padding gets none.
    gradient = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradient = gradient * real.unsqueeze(-1)
    ours = torch.autograd.grad(outputs, inputs, gradient)[0]
    expected = torch.autograd.grad(plain, inputs, gradient)[0]
    assert torch.allclose(ours, expected, rtol=1e-13)


def test_it_pays_for_wide_layers_with_much_to_leave_out() -> None:
    much = TokenLayout.from_lengths((512, 512), (256,), 512)
    little = TokenLayout.from_lengths((512, 512), (2,), 512)
    assert much.saves_time(torch.empty(768, 3072))
    assert not much.saves_time(torch.empty(768, 8))
    assert not little.saves_time(torch.empty(768, 3072))
