"""Each product function against the gradients it avoids building."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from entangle_cli.engine import products
from entangle_cli.engine.products import (
    InputGrams,
    gram_products,
    lookup_products,
    materialised_products,
    per_row_sum,
    route_costs,
)


def from_gradients(gradients: Tensor) -> Tensor:
    """Products by definition; rows first."""
    flat = gradients.flatten(1)
    chosen, rejected = flat.chunk(2)
    return torch.stack([(chosen * chosen).sum(1), (rejected * rejected).sum(1), (chosen * rejected).sum(1)])


def factors(shared: int, tokens: int = 11) -> tuple[Tensor, Tensor]:
    """Inputs with a shared start for both rows of a pair, and output gradients, for three pairs."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, tokens, 4, generator=generator, dtype=torch.float64)
    inputs[3:, :shared] = inputs[:3, :shared]
    return inputs, torch.randn(6, tokens, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("strip", [2, 4, 128])
@pytest.mark.parametrize("shared", [0, 1, 6, 11])
def test_both_routes_equal_the_definition(shared: int, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MIN_SYMMETRIC_STRIP", strip)
    monkeypatch.setattr(products, "MIXED_STRIP", strip + 1)
    inputs, gradients = factors(shared)
    expected = from_gradients(torch.einsum("bti,bto->bio", inputs, gradients))
    torch.testing.assert_close(gram_products(InputGrams(inputs, shared), [gradients]), expected)
    torch.testing.assert_close(materialised_products(inputs, gradients), expected)


@pytest.mark.parametrize("ratio", [1.0, 1e-3, 1e4])
def test_the_inner_product_keeps_its_digits_whatever_the_norms(ratio: float) -> None:
    """Without equal norms, the error of polarisation is relative to the sum of squared norms."""
    inputs, gradients = factors(shared=6)
    gradients[:3] *= ratio
    expected = from_gradients(torch.einsum("bti,bto->bio", inputs, gradients))
    found = gram_products(InputGrams(inputs.float(), 6), [gradients.float()])
    scale = (expected[0] * expected[1]).sqrt()
    assert bool(((found[2] - expected[2]).abs() <= 2e-6 * scale).all())


@pytest.mark.parametrize("shared", [0, 4, 11])
def test_input_grams_are_the_products_of_the_inputs(shared: int) -> None:
    inputs, _ = factors(shared)
    chosen, rejected = inputs.chunk(2)
    grams = InputGrams(inputs, shared)
    prefix, chosen, rejected = chosen[:, :shared], chosen[:, shared:], rejected[:, shared:]
    for strips, rows in ((grams.prefix, prefix), (grams.own_chosen, chosen), (grams.own_rejected, rejected)):
        whole, start = rows @ rows.mT, 0
        for strip in strips:
            height = strip.shape[1]
            torch.testing.assert_close(strip, whole[:, start : start + height, start:])
            start += height
        assert start == rows.shape[1]
    torch.testing.assert_close(grams.prefix_chosen, prefix @ chosen.mT)
    torch.testing.assert_close(grams.prefix_rejected, prefix @ rejected.mT)
    torch.testing.assert_close(grams.mixed, chosen @ rejected.mT)


def test_lookups_equal_the_definition_with_repeated_ids() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 5, (6, 9), generator=generator)
    gradients = torch.randn(6, 9, 4, generator=generator, dtype=torch.float64)
    tables = torch.zeros(6, 5, 4, dtype=torch.float64)
    for row in range(6):
        tables[row].index_add_(0, ids[row], gradients[row])
    torch.testing.assert_close(lookup_products(ids, gradients), from_gradients(tables))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 1), (1, 4), ()])
def test_per_row_sums_are_what_autograd_gives_a_broadcast_parameter(shape: tuple[int, ...]) -> None:
    values = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    for row in range(2):
        parameter = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        (parameter * values[row]).sum().backward()
        torch.testing.assert_close(per_row_sum(values, torch.Size(shape))[row], parameter.grad.flatten())


def test_the_cheaper_route_follows_the_number_of_tokens() -> None:
    assert route_costs(num_tokens=64, num_shared=32, num_inputs=2048, widths=[5632]).on_gram_route() == [True]
    assert route_costs(num_tokens=2048, num_shared=0, num_inputs=64, widths=[64]).on_gram_route() == [False]


@pytest.mark.parametrize("tile", [1024, 5])
def test_routed_products_are_those_of_each_rows_own_tokens(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "ROUTED_TILE_TOKENS", tile)
    generator = torch.Generator().manual_seed(0)
    rows_n = torch.randint(0, 6, (17,), generator=generator)
    rows_n[rows_n == 4] = 1  # the second pair's rejected row has no token here
    input_nI = torch.randn(17, 4, generator=generator, dtype=torch.float64)
    gradient_nO = torch.randn(17, 3, generator=generator, dtype=torch.float64)
    whole_BIO = torch.zeros(6, 4, 3, dtype=torch.float64)
    for row, values, gradient in zip(rows_n.tolist(), input_nI, gradient_nO, strict=True):
        whole_BIO[row] += torch.outer(values, gradient)
    measured = products.routed_products(input_nI, gradient_nO, rows_n, num_rows=6)
    assert torch.allclose(measured, from_gradients(whole_BIO), rtol=1e-12, atol=1e-12)
    assert measured[1, 1] == 0.0
