"""Groups of parameters: every parameter has one, and their products add up to the pair's."""

from __future__ import annotations

import pytest
import torch

from entangle_cli.engine.engine import Engine
from entangle_cli.engine.groups import parameter_groups
from tests.engine.pairs import assorted_pairs
from tests.tiny_models import VOCABULARY, tiny_model


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "gpt-neox", "mixtral", "opt", "mamba"])
def test_the_parts_add_up_to_the_pair(family: str) -> None:
    model = tiny_model(family).double()
    parameters = dict(model.named_parameters())
    groups = parameter_groups(model, parameters)
    with Engine(model, parameters, groups=groups) as engine:
        measured = engine.measure(assorted_pairs(VOCABULARY))
    for pair in measured:
        assert [part.group for part in pair.groups] == list(dict.fromkeys(groups.values()))
        for name in ("chosen_squared_norm", "rejected_squared_norm", "inner_product"):
            assert sum(getattr(part, name) for part in pair.groups) == pytest.approx(getattr(pair, name), rel=1e-12)


def test_a_group_is_what_its_parameters_alone_would_measure() -> None:
    model = tiny_model("llama").double()
    parameters = dict(model.named_parameters())
    groups = parameter_groups(model, parameters)
    pairs = assorted_pairs(VOCABULARY)
    with Engine(model, parameters, groups=groups) as engine:
        measured = engine.measure(pairs)
    for place, group in enumerate(dict.fromkeys(groups.values())):
        own = {name: parameter for name, parameter in parameters.items() if groups[name] == group}
        with Engine(model, own) as engine:
            alone = engine.measure(pairs)
        for pair, expected in zip(measured, alone, strict=True):
            assert pair.groups[place].inner_product == pytest.approx(expected.inner_product, rel=1e-9, abs=1e-12)


def test_names_of_groups() -> None:
    model = tiny_model("llama")
    groups = list(dict.fromkeys(parameter_groups(model, dict(model.named_parameters())).values()))
    assert groups[:4] == ["embedding", "block 0 attention", "block 0 MLP", "block 0 norms"]
    assert groups[-2:] == ["final norm", "head"]
    gpt2 = tiny_model("gpt2")
    groups = list(dict.fromkeys(parameter_groups(gpt2, dict(gpt2.named_parameters())).values()))
    assert groups[:3] == ["embedding and head", "embedding", "block 0 norms"]
    mixtral = tiny_model("mixtral")
    assert "other" not in " ".join(parameter_groups(mixtral, dict(mixtral.named_parameters())).values())


def test_without_groups_there_are_none() -> None:
    model = tiny_model("gpt2")
    with torch.no_grad(), Engine(model, dict(model.named_parameters())) as engine:
        assert engine.measure(assorted_pairs(VOCABULARY))[0].groups == ()
