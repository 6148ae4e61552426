"""No host reads inside a batch. A GPU would wait for each of them. The meta device refuses them, so it stands in."""

from __future__ import annotations

from functools import cache

import pytest
from transformers import AutoConfig

from entangle_cli.engine.batch import make_batch
from entangle_cli.engine.coverage import Plan
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.model import find_unembedding, prepared
from entangle_cli.engine.pair_products import Route, measure_batch
from tests.engine.pairs import assorted_pairs
from tests.meta_device import META, counted_mask_checks, meta_model
from tests.tiny_models import ALL_FAMILIES, VOCABULARY, tiny_model

READS_FOR_EXPERTS = {"jetmoe"}
"""Families whose own experts take their tokens by an index that is read on the host."""

KNOWN_READ = pytest.mark.xfail(strict=True, raises=(NotImplementedError, RuntimeError), reason="reads expert indices")


@cache
def plan_of(family: str) -> Plan:
    model = tiny_model(family)
    with Engine(model, dict(model.named_parameters())) as engine:
        return engine.plan


@pytest.mark.parametrize("route", [Route.GRAM, Route.MATERIALISED])
@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=KNOWN_READ) if family in READS_FOR_EXPERTS else family for family in ALL_FAMILIES],
)
def test_a_batch_is_measured_without_reading_values_on_the_host(family: str, route: Route) -> None:
    plan = plan_of(family)
    if plan.whole_model_slow:
        pytest.skip("measured by plain autograd")
    model_type, settings = ALL_FAMILIES[family]
    # With a padding token, some models look for it in the ids, only to warn.
    model = meta_model(AutoConfig.for_model(model_type, **{**settings, "pad_token_id": None}), "eager")
    names = {id(parameter): name for name, parameter in model.named_parameters() if name not in plan.slow}
    with prepared(model), counted_mask_checks() as checks:
        batch = make_batch(assorted_pairs(VOCABULARY), META)
        result = measure_batch(model, find_unembedding(model), batch, names, route)
    assert len(checks) <= 2
    assert result.products.keys() <= set(names.values())
    assert {product.device for product in (*result.products.values(), result.log_probs_B)} == {META}
