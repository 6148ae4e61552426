"""The engine against float64 autograd, by every route, and its invariances."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from torch import nn

from entangle_cli.engine import (
    batch,
    distinct_tokens,
    gradient_pass,
    head_grams,
    head_products,
    head_sweep,
    products,
    recorder,
)
from entangle_cli.engine.coverage import Rule
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.pair_products import Route
from entangle_cli.records.measurement import PairMeasurement, TokenizedPair, TokenizedResponse
from tests.engine.pairs import assorted_pairs, random_pair
from tests.oracle import Reference, reference
from tests.tiny_models import (
    ALL_FAMILIES,
    FAMILIES,
    PARTLY_SLOW_FAMILIES,
    PARTLY_UNUSED_FAMILIES,
    VOCABULARY,
    tiny_model,
)
from tests.tolerances import TOLERANCES, Tolerance
from tests.true_float64 import TrueFloat64


def measure(
    model: nn.Module,
    pairs: Sequence[TokenizedPair],
    route: Route = Route.CHEAPER,
    names: Sequence[str] | None = None,
) -> list[PairMeasurement]:
    named = dict(model.named_parameters())
    with Engine(model, named if names is None else {name: named[name] for name in names}, route) as engine:
        return engine.measure(pairs)


def truth(model: nn.Module, pair: TokenizedPair, names: Sequence[str] | None = None) -> Reference:
    sides = [(side.ids, side.first_scored) for side in (pair.chosen, pair.rejected)]
    return reference(model, *sides, names=names)


def assert_close(measured: PairMeasurement, expected: Reference, tolerance: Tolerance) -> None:
    scale = (expected.chosen_squared_norm * expected.rejected_squared_norm) ** 0.5
    close = {
        "chosen_log_prob": (tolerance.log_prob, abs(expected.chosen_log_prob)),
        "rejected_log_prob": (tolerance.log_prob, abs(expected.rejected_log_prob)),
        "chosen_squared_norm": (tolerance.squared_norm, expected.chosen_squared_norm),
        "rejected_squared_norm": (tolerance.squared_norm, expected.rejected_squared_norm),
        "inner_product": (tolerance.inner_product, scale),
    }
    for name, (relative, against) in close.items():
        error = abs(getattr(measured, name) - getattr(expected, name))
        assert error <= relative * against, f"{name}: {getattr(measured, name)} is not {getattr(expected, name)}"


@pytest.mark.parametrize("route", list(Route))
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_by_every_route_equals_autograd(family: str, route: Route) -> None:
    model = tiny_model(family)
    pairs = assorted_pairs(VOCABULARY)
    with TrueFloat64():
        for pair, measured in zip(pairs, measure(model, pairs, route), strict=True):
            assert_close(measured, truth(model, pair), TOLERANCES[torch.float64])


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_family_equals_autograd_where_layers_run_once_a_token(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distinct_tokens, "copy_flops", lambda device, dtype: 0)
    model = tiny_model(family)
    pairs = [random_pair(VOCABULARY, prompt=7, chosen=5, rejected=4, seed=3), *assorted_pairs(VOCABULARY)]
    with TrueFloat64():
        for pair, measured in zip(pairs, measure(model, pairs), strict=True):
            assert_close(measured, truth(model, pair), TOLERANCES[torch.float64])


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_computing_layers_again_changes_nothing(family: str) -> None:
    """Compared with the engine without recomputation, because modes like TrueFloat64 are off in a backward pass."""
    model = tiny_model(family)
    pairs = assorted_pairs(VOCABULARY)
    expected = measure(model, pairs)
    forwards = [module.forward for module in model.modules()]
    with Engine(model, dict(model.named_parameters())) as engine:
        results = engine.measure(pairs, recompute=True)
    for measured, kept in zip(results, expected, strict=True):
        assert_close(measured, Reference(*_values(kept)), TOLERANCES[torch.float64])
    assert [module.forward for module in model.modules()] == forwards


def test_layers_are_really_computed_again() -> None:
    model = tiny_model("llama")
    calls: list[bool] = []
    model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    pairs = assorted_pairs(VOCABULARY)
    with Engine(model, dict(model.named_parameters())) as engine:
        calls.clear()
        engine.measure(pairs, recompute=True)
    assert calls == [False, True]


@pytest.mark.parametrize("family", PARTLY_SLOW_FAMILIES)
def test_what_takes_the_slow_way_is_named(family: str) -> None:
    model = tiny_model(family)
    with Engine(model, dict(model.named_parameters())) as engine:
        assert engine.plan.reasons
        assert not engine.plan.whole_model_slow
        assert set(engine.plan.rules) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("family", PARTLY_UNUSED_FAMILIES)
def test_what_text_does_not_reach_is_named(family: str) -> None:
    model = tiny_model(family)
    with Engine(model, dict(model.named_parameters())) as engine:
        unused = {name for name, rule in engine.plan.rules.items() if rule is Rule.UNUSED}
        assert not engine.plan.reasons
    assert unused == {name for name, _ in model.named_parameters() if "vision" in name or "multi_modal" in name}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_parameter_of_these_families_takes_the_slow_way(family: str) -> None:
    model = tiny_model(family)
    named = dict(model.named_parameters())
    with Engine(model, named) as engine:
        assert not engine.plan.reasons
        assert sum(engine.plan.numel_by_rule().values()) == sum(p.numel() for p in named.values())
        assert Rule.UNUSED not in engine.plan.numel_by_rule()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "qwen3"])
def test_narrower_dtypes_stay_within_their_tolerance(family: str, dtype: torch.dtype) -> None:
    narrow = tiny_model(family, dtype)
    wide = tiny_model(family, dtype).to(torch.float64)
    pairs = assorted_pairs(VOCABULARY)
    for pair, measured in zip(pairs, measure(narrow, pairs), strict=True):
        assert_close(measured, truth(wide, pair), TOLERANCES[dtype])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_strips_and_vocabulary_chunks_change_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    pairs = [
        random_pair(VOCABULARY, prompt=11, chosen=9, rejected=13, seed=7),
        random_pair(VOCABULARY, prompt=8, chosen=5, rejected=5, seed=8),
    ]
    whole = measure(model, pairs, Route.GRAM)
    monkeypatch.setattr(products, "MIN_SYMMETRIC_STRIP", 3)
    monkeypatch.setattr(products, "MIXED_STRIP", 4)
    monkeypatch.setitem(head_sweep.CHUNK_BYTES, "cpu", 4 * 38 * 7)
    monkeypatch.setattr(head_grams, "SYMMETRIC_TILE", 2)
    monkeypatch.setattr(head_products, "BLOCK_BYTES", 4 * 4 * 9)
    for tiled, expected in zip(measure(model, pairs, Route.GRAM), whole, strict=True):
        assert_close(tiled, Reference(*_values(expected)), TOLERANCES[torch.float64])


def _values(measured: PairMeasurement) -> tuple[float, ...]:
    return (
        measured.chosen_log_prob,
        measured.rejected_log_prob,
        measured.chosen_squared_norm,
        measured.rejected_squared_norm,
        measured.inner_product,
    )


def test_layers_that_read_one_input_share_its_grams(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a llama's layer: queries, keys and values; the output; gate and up; down."""
    made: list[torch.Size] = []

    class Counted(products.InputGrams):
        def __init__(self, input_BTI: torch.Tensor, num_shared: int) -> None:
            made.append(input_BTI.shape)
            super().__init__(input_BTI, num_shared)

    model = tiny_model("llama")
    with Engine(model, dict(model.named_parameters()), Route.GRAM) as engine:
        monkeypatch.setattr(products, "InputGrams", Counted)
        engine.measure(assorted_pairs(VOCABULARY))
    assert len(made) == 4 * model.config.num_hidden_layers


def test_a_long_shared_prompt_is_found_and_used() -> None:
    pairs = [random_pair(VOCABULARY, prompt=20, chosen=6, rejected=4, seed=seed, shared_words=2) for seed in (1, 2)]
    assert batch.make_batch(pairs, torch.device("cpu")).num_shared >= 22
    model = tiny_model("llama")
    with TrueFloat64():
        for pair, measured in zip(pairs, measure(model, pairs, Route.GRAM), strict=True):
            assert_close(measured, truth(model, pair), TOLERANCES[torch.float64])


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_swapping_the_sides_swaps_the_norms(family: str) -> None:
    model = tiny_model(family)
    pairs = assorted_pairs(VOCABULARY)
    swapped = [TokenizedPair(pair.rejected, pair.chosen) for pair in pairs]
    for one, other in zip(measure(model, pairs), measure(model, swapped), strict=True):
        log_probs = (other.rejected_log_prob, other.chosen_log_prob)
        norms = (other.rejected_squared_norm, other.chosen_squared_norm)
        assert_close(one, Reference(*log_probs, *norms, other.inner_product), TOLERANCES[torch.float64])
        assert one.chosen_squared_norm != pytest.approx(one.rejected_squared_norm, rel=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_batch_order_and_padding_do_not_matter(family: str) -> None:
    model = tiny_model(family)
    pairs = assorted_pairs(VOCABULARY)
    together = measure(model, pairs)
    backwards = measure(model, pairs[::-1])[::-1]
    alone = [measure(model, [pair])[0] for pair in pairs]
    for one, reverse, single in zip(together, backwards, alone, strict=True):
        assert_close(reverse, Reference(*_values(one)), TOLERANCES[torch.float64])
        # Norms inside the models are float32. Their rounding depends on the shape of the batch.
        assert_close(single, Reference(*_values(one)), TOLERANCES[torch.float32])


def test_a_subset_of_parameters_counts_alone() -> None:
    model = tiny_model("gpt2")
    pair = random_pair(VOCABULARY, prompt=4, chosen=5, rejected=6, seed=5)
    groups = {
        "first block": [name for name, _ in model.named_parameters() if ".h.0." in name],
        "last norm": ["transformer.ln_f.weight", "transformer.ln_f.bias"],
        "tied table": ["transformer.wte.weight"],
        "positions": ["transformer.wpe.weight"],
        "rest": [name for name, _ in model.named_parameters() if ".h.1." in name],
    }
    whole = measure(model, [pair])[0]
    parts = [measure(model, [pair], names=names)[0] for names in groups.values()]
    for part, names in zip(parts, groups.values(), strict=True):
        assert_close(part, truth(model, pair, names), TOLERANCES[torch.float64])
    for name in ("chosen_squared_norm", "rejected_squared_norm", "inner_product"):
        total = sum(getattr(part, name) for part in parts)
        assert total == pytest.approx(getattr(whole, name), rel=1e-9)


class _Odd(nn.Module):
    """Wraps a layer: one parameter is used in a function without a rule, and one is not used."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.inner = inner
        self.gate = nn.Parameter(torch.linspace(0.5, 1.5, width, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.inner(values) * torch.sigmoid(self.gate)


def test_what_no_rule_covers_takes_the_slow_way_and_says_so() -> None:
    model = tiny_model("llama")
    layer = model.model.layers[0]
    layer.mlp = _Odd(layer.mlp, 24)
    pairs = assorted_pairs(VOCABULARY)
    with TrueFloat64(), Engine(model, dict(model.named_parameters())) as engine:
        assert dict(engine.plan.reasons) == {"model.layers.0.mlp.gate": "used by sigmoid, which no rule covers"}
        assert engine.plan.rules["model.layers.0.mlp.unused"] is Rule.UNUSED
        for pair, measured in zip(pairs, engine.measure(pairs), strict=True):
            assert_close(measured, truth(model, pair), TOLERANCES[torch.float64])


class _Twice(nn.Module):
    """One linear layer applied twice, and its weight's bias with it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.shared = nn.Linear(24, 24, dtype=torch.float64)
        self.norm = nn.LayerNorm(24, dtype=torch.float64)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        once = self.norm(torch.tanh(self.shared(values)))
        return self.inner(values) + self.norm(self.shared(once))


@pytest.mark.parametrize("route", list(Route))
def test_a_module_called_twice_has_one_gradient(route: Route) -> None:
    torch.manual_seed(3)
    model = tiny_model("llama")
    model.model.layers[1].mlp = _Twice(model.model.layers[1].mlp)
    pairs = assorted_pairs(VOCABULARY)
    with TrueFloat64():
        for pair, measured in zip(pairs, measure(model, pairs, route), strict=True):
            assert_close(measured, truth(model, pair), TOLERANCES[torch.float64])


def test_logits_that_are_not_the_unembedding_go_through_the_model() -> None:
    model = tiny_model("llama")
    forward = model.forward

    def sharpened(**kwargs: object) -> object:
        output = forward(**kwargs)
        output.logits = output.logits * 1.5
        return output

    model.forward = sharpened
    pairs = assorted_pairs(VOCABULARY)[:2]
    with TrueFloat64(), Engine(model, dict(model.named_parameters())) as engine:
        assert engine.plan.whole_model_slow
        for pair, measured in zip(pairs, engine.measure(pairs), strict=True):
            assert_close(measured, truth(model, pair), TOLERANCES[torch.float64])


def test_an_unembedding_of_the_last_positions_only_goes_through_the_model() -> None:
    """As in a model that keeps only some logits. The head cannot be separated there."""
    model = tiny_model("llama")
    head = model.lm_head
    model.lm_head = _HeadTwice(head)
    model.get_output_embeddings = lambda: head
    pair = random_pair(VOCABULARY, prompt=4, chosen=5, rejected=6, seed=5)
    with TrueFloat64(), Engine(model, dict(model.named_parameters())) as engine:
        assert engine.plan.whole_model_slow
        assert_close(engine.measure([pair])[0], truth(model, pair), TOLERANCES[torch.float64])


class _HeadTwice(nn.Module):
    """Applies the unembedding to the last position first, and then to all."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.inner(values) + 0.0 * self.inner(values[:, -1:])


def test_the_padding_row_of_a_table_takes_no_gradient() -> None:
    model = tiny_model("llama")
    pair = TokenizedPair(TokenizedResponse((4, 0, 7, 0, 9), 2), TokenizedResponse((4, 0, 8, 8), 2))
    assert model.get_input_embeddings().padding_idx == 0
    with TrueFloat64():
        assert_close(measure(model, [pair])[0], truth(model, pair), TOLERANCES[torch.float64])


@pytest.mark.parametrize("recompute", [False, True])
def test_a_pass_leaves_nothing_behind(recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks hold the recorder and nodes hold the hooks. If the recorder held the graph, no pass would be freed."""
    recorders: list[weakref.ref[object]] = []

    class Noted(recorder.Recorder):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            recorders.append(weakref.ref(self))

    monkeypatch.setattr(gradient_pass, "Recorder", Noted)
    model = tiny_model("llama")
    with Engine(model, dict(model.named_parameters())) as engine:
        engine.measure(assorted_pairs(VOCABULARY), recompute=recompute)
    gc.collect()
    assert len(recorders) == 3, "two of the probe, one of the pairs"
    assert [reference() for reference in recorders] == [None] * 3


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    model = tiny_model("gpt2").train()
    some = dict(model.named_parameters())
    some["transformer.wpe.weight"].requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in some.items()}
    pair = random_pair(VOCABULARY, prompt=3, chosen=3, rejected=3, seed=1)
    if fails:
        pair = TokenizedPair(TokenizedResponse((1, VOCABULARY + 5, 2), 1), pair.rejected)
    with Engine(model, some) as engine:
        assert not model.training
        if fails:
            with pytest.raises(IndexError):
                engine.measure([pair])
        else:
            engine.measure([pair])
    assert model.training
    assert {name: parameter.requires_grad for name, parameter in some.items()} == before
    assert all(parameter.grad is None for parameter in some.values())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks


@pytest.mark.parametrize("recompute", [False, True])
def test_a_dispatched_model_is_measured_through_its_hooks(recompute: bool) -> None:
    """A model as loaded with `device_map`. All parts are on one device, moved there by accelerate's hooks."""
    model = tiny_model("gpt2")
    pairs = assorted_pairs(VOCABULARY)
    expected = measure(model, pairs)
    dispatched = dispatch_model(model, dict.fromkeys(["transformer", "lm_head"], "cpu"), force_hooks=True)
    with Engine(dispatched, dict(dispatched.named_parameters())) as engine:
        assert not engine.plan.reasons
        for ours, plain in zip(engine.measure(pairs, recompute=recompute), expected, strict=True):
            assert_close(ours, Reference(*_values(plain)), TOLERANCES[torch.float64])


class _InShapes(nn.Module):
    """Uses one square weight in two ways. Their factors must not be confused."""

    def __init__(self, inner: nn.Module, way: str) -> None:
        super().__init__()
        self.inner = inner
        self.way = way
        self.weight = nn.Parameter(torch.randn(2, 24, 24, dtype=torch.float64) / 5)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        first = nn.functional.linear(values, self.weight[0])
        match self.way:
            case "turned":
                second = torch.tanh(first) @ self.weight[0]
            case "back again":
                second = torch.tanh(first) @ self.weight[0].T
            case "other slice":
                second = nn.functional.linear(torch.tanh(first), self.weight[1])
            case _:
                second = torch.tanh(first) @ self.weight.reshape(24, 48)[:, :24]
        return self.inner(values) + second


@pytest.mark.parametrize(
    ("way", "is_slow"), [("turned", True), ("back again", False), ("other slice", False), ("whole and slice", True)]
)
def test_a_weight_used_in_several_shapes_has_one_gradient(way: str, is_slow: bool) -> None:
    torch.manual_seed(4)
    model = tiny_model("llama")
    model.model.layers[0].mlp = _InShapes(model.model.layers[0].mlp, way)
    pairs = assorted_pairs(VOCABULARY)
    with TrueFloat64(), Engine(model, dict(model.named_parameters())) as engine:
        assert ("model.layers.0.mlp.weight" in engine.plan.reasons) == is_slow
        for pair, measured in zip(pairs, engine.measure(pairs), strict=True):
            assert_close(measured, truth(model, pair), TOLERANCES[torch.float64])
