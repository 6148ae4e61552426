"""Kernel launches of a batch. A small batch on a GPU takes the time of its launches."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from entangle_cli.engine.batch import make_batch
from entangle_cli.engine.model import find_unembedding, prepared
from entangle_cli.engine.pair_products import Route, measure_batch
from tests.benchmarks.roofline import BATCHES, Card, WorkCounter, estimate
from tests.engine.pairs import random_pair
from tests.engine.test_without_data import plan_of
from tests.meta_device import META, counted_mask_checks, meta_model
from tests.tiny_models import ALL_FAMILIES, VOCABULARY


def launches(family: str, num_pairs: int, route: Route, num_layers: int | None = None) -> int:
    """Launches for pairs of different lengths."""
    model_type, settings = ALL_FAMILIES[family]
    layers = {} if num_layers is None else {"num_hidden_layers": num_layers}
    model = meta_model(AutoConfig.for_model(model_type, **{**settings, **layers, "pad_token_id": None}), "eager")
    names = {id(parameter): name for name, parameter in model.named_parameters() if name not in plan_of(family).slow}
    pairs = [
        random_pair(VOCABULARY, prompt=9, chosen=3 + seed % 3, rejected=7 - seed % 4, seed=seed, shared_words=1)
        for seed in range(num_pairs)
    ]
    with prepared(model), counted_mask_checks():
        batch = make_batch(pairs, META)
        with WorkCounter(Card()) as counter:
            measure_batch(model, find_unembedding(model), batch, names, route, groups=dict.fromkeys(names.values(), ""))
    return counter.work.launches


@pytest.mark.parametrize("route", [Route.GRAM, Route.MATERIALISED])
@pytest.mark.parametrize(
    "family",
    ["gpt2", "llama", "llama-tied-biased", "gemma3", "qwen3", "gpt-neox", "bloom", "mixtral", "qwen3-moe", "gpt-oss"],
)
def test_more_pairs_need_no_more_launches(family: str, route: Route) -> None:
    assert launches(family, 12, route) == launches(family, 2, route)


def test_a_layer_has_a_ceiling() -> None:
    """A llama layer: 7 weights and 2 norms."""
    assert launches("llama", 4, Route.GRAM, num_layers=3) - launches("llama", 4, Route.GRAM, num_layers=2) <= 190


@pytest.mark.parametrize(("shape", "num_tokens"), list(BATCHES))
def test_shapes_that_people_use_stay_within_six_times_the_floor(shape: str, num_tokens: int) -> None:
    found, _ = estimate(shape, num_tokens, BATCHES[shape, num_tokens], Card())
    assert found.launches <= 6 * found.floor_launches
    assert found.synchronisations <= 3
