"""Products as a GPU computes them, on a CPU: equal to those of a CPU, and to autograd."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from entangle_cli.engine import device_products, head_grams, head_sweep, pair_products
from entangle_cli.engine.costs import copy_flops
from entangle_cli.engine.distinct_tokens import TokenLayout
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.head_grams import GramsAtOnce
from entangle_cli.engine.linear_products import linear_products
from entangle_cli.engine.pair_products import Route
from entangle_cli.records.measurement import PairMeasurement, TokenizedPair
from tests.engine.pairs import assorted_pairs
from tests.engine.test_engine import assert_close, truth
from tests.tiny_models import ALL_FAMILIES, VOCABULARY, tiny_model
from tests.tolerances import TOLERANCES
from tests.true_float64 import TrueFloat64

CUDA = torch.device("cuda")

FLOAT32_ROUTERS = {"deepseek-v2", "glm4-moe"}
"""Their routers compute in float32 in any model, so the order of their sums shows."""


def measured(family: str, pairs: Sequence[TokenizedPair], route: Route, dtype: torch.dtype) -> list[PairMeasurement]:
    model = tiny_model(family, dtype)
    with Engine(model, dict(model.named_parameters()), route) as engine:
        return engine.measure(pairs)


def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_products, "linear_products", lambda device, dtype: linear_products(CUDA, dtype))
    monkeypatch.setattr(head_sweep, "start_grams", GramsAtOnce)
    # Several chunks, and several parts of each.
    monkeypatch.setitem(head_sweep.CHUNK_BYTES, "cpu", 4 * 38 * 7)
    monkeypatch.setattr(head_grams, "PADDED_BYTES", 4 * 10 * 9 * 2)


@pytest.mark.parametrize("route", list(Route))
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_device_and_a_cpu_agree_in_float64(family: str, route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = assorted_pairs(VOCABULARY)
    on_host = measured(family, pairs, route, torch.float64)
    as_on_a_device(monkeypatch)
    error = 1e-9 if family in FLOAT32_ROUTERS else 1e-12
    for host, device in zip(on_host, measured(family, pairs, route, torch.float64), strict=True):
        scale = (host.chosen_squared_norm * host.rejected_squared_norm) ** 0.5
        assert device.chosen_squared_norm == pytest.approx(host.chosen_squared_norm, rel=error)
        assert device.rejected_squared_norm == pytest.approx(host.rejected_squared_norm, rel=error)
        assert device.inner_product == pytest.approx(host.inner_product, abs=error * scale)


@pytest.mark.parametrize("route", [Route.GRAM, Route.MATERIALISED])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gemma3"])
def test_bfloat16_stays_within_its_tolerance(family: str, route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_device(monkeypatch)
    pairs = assorted_pairs(VOCABULARY)
    model = tiny_model(family, torch.bfloat16)
    with Engine(model, dict(model.named_parameters()), route) as engine:
        found = engine.measure(pairs)
    exact = tiny_model(family, torch.bfloat16).to(torch.float64)
    with TrueFloat64():
        for pair, measurement in zip(pairs, found, strict=True):
            assert_close(measurement, truth(exact, pair), TOLERANCES[torch.bfloat16])


@pytest.mark.parametrize("shortest_half", [2, 3, 12])
def test_halved_blocks_and_joined_gradients_change_nothing(shortest_half: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 12, 5, dtype=torch.float64, generator=generator)
    # 100 outputs are too many to be worth a copy, so these stay apart.
    gradients = [torch.randn(6, 12, width, dtype=torch.float64, generator=generator) for width in (7, 2, 100, 1)]
    monkeypatch.setattr(device_products, "SHORTEST_HALF", shortest_half)
    grams = device_products.BlockGrams(inputs, 0)
    assert len(grams.same) == {2: 3, 3: 3, 12: 1}[shortest_half]
    elements = grams.mixed_PTT.numel() + sum(gram.numel() for gram in grams.same)
    assert device_products.gram_elements(12) == elements / 3
    found = device_products.gram_products(grams, gradients)
    torch.testing.assert_close(
        found, sum(device_products.materialised_products(inputs, gradient) for gradient in gradients)
    )


@pytest.mark.parametrize("working_bytes", [1, 2000, 2**30])
def test_a_batch_larger_than_the_working_memory_is_split(working_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, gradients = (torch.randn(6, 11, size, dtype=torch.float64, generator=generator) for size in (5, 7))
    weights = torch.einsum("bti,bto->bio", inputs, gradients).flatten(1)
    expected = torch.stack(
        [(weights[:3] ** 2).sum(-1), (weights[3:] ** 2).sum(-1), (weights[:3] * weights[3:]).sum(-1)]
    )
    monkeypatch.setattr(device_products, "WORKING_BYTES", working_bytes)
    grams = device_products.BlockGrams(inputs, 0)
    torch.testing.assert_close(device_products.gram_products(grams, [gradients]), expected)
    torch.testing.assert_close(device_products.materialised_products(inputs, gradients), expected)


def test_products_of_halves_are_accumulated_in_float32() -> None:
    """1 + 2^-12 is lost in bfloat16 and kept in float32."""
    left = torch.tensor([[[1.0, 2.0**-12]]], dtype=torch.bfloat16)
    ones = torch.ones(1, 2, 1, dtype=torch.bfloat16)
    assert device_products.wide_product(left, ones).item() == 1 + 2.0**-12


@pytest.mark.parametrize("right", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("left", [torch.bfloat16, torch.float32])
def test_operands_of_any_dtype_have_a_float32_product(left: torch.dtype, right: torch.dtype) -> None:
    """An adapter in float32 on a base in bfloat16 can bring both."""
    for device in ("cpu", "meta"):
        operands = torch.ones(2, 3, 4, dtype=left, device=device), torch.ones(2, 4, 5, dtype=right, device=device)
        product = device_products.wide_product(*operands)
        assert (product.dtype, product.shape) == (torch.float32, (2, 3, 5))


@pytest.mark.parametrize(
    ("num_tokens", "num_inputs", "widths", "dtype", "expected"),
    [
        # llama-8b: every weight at 512 tokens; at 2,048 the narrow keys and values are smaller than a gram.
        (512, 4096, [14336, 14336], torch.bfloat16, [True, True]),
        (512, 4096, [4096, 1024, 1024], torch.bfloat16, [True, True, True]),
        (2048, 4096, [14336, 14336], torch.bfloat16, [True, True]),
        (2048, 4096, [4096, 1024, 1024], torch.bfloat16, [True, True, True]),
        # gpt2-124m: moving a byte costs bfloat16 13 times as many flops as float32.
        (512, 768, [768], torch.bfloat16, [False]),
        (64, 768, [768], torch.bfloat16, [True]),
        (2048, 768, [3072], torch.float32, [False]),
        # qwen2-0.5b: narrow gradients share a gram.
        (512, 896, [896, 128, 128], torch.bfloat16, [True, True, True]),
        (512, 896, [128, 128], torch.bfloat16, [False, False]),
    ],
)
def test_routes_of_shapes_that_people_use(
    num_tokens: int, num_inputs: int, widths: list[int], dtype: torch.dtype, expected: list[bool]
) -> None:
    costs = linear_products(CUDA, dtype).route_costs(num_tokens, 0, num_inputs, widths)
    assert costs.on_gram_route() == expected


def test_a_device_skips_tokens_only_in_wide_layers() -> None:
    """Four pairs of 512 tokens, half of them shared. A copy costs a GPU more flops than a CPU."""
    layout = TokenLayout.from_lengths((512,) * 8, (256,) * 4, 512)
    assert (
        copy_flops(CUDA, torch.bfloat16)
        > copy_flops(CUDA, torch.float32)
        > copy_flops(torch.device("cpu"), torch.float32)
    )
    narrow, wide = ((768, 768), (4096, 14336))
    assert layout.saves_time(torch.empty(narrow))
    assert not layout.saves_time(torch.empty(narrow, device="meta", dtype=torch.bfloat16))
    assert layout.saves_time(torch.empty(wide, device="meta", dtype=torch.bfloat16))
