"""Tensors that count as aliases of a parameter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from entangle_cli.engine.parameter_aliases import Alias, ParameterAliases


def followed(compute: Callable[[torch.Tensor], tuple[object, tuple[object, ...]]]) -> Alias | None:
    """The alias found in the result of a call on a watched [3, 4, 5] parameter."""
    weight = torch.nn.Parameter(torch.randn(3, 4, 5))
    func, others = compute(weight)
    return ParameterAliases({id(weight): "weight"}).result_alias(func, (weight, *others))


@pytest.mark.parametrize(
    ("func", "others", "expected"),
    [
        (torch.Tensor.float, (), (None, False, False)),
        (torch.Tensor.add, (1.0,), (None, False, False)),
        (torch.Tensor.__getitem__, (2,), (2, False, False)),
        (torch.Tensor.__getitem__, (torch.tensor(1),), (1, False, False)),
        (torch.Tensor.__getitem__, ((None, slice(None)),), (None, False, True)),
        (torch.Tensor.reshape, (12, 5), (None, False, True)),
    ],
    ids=["cast", "constant added", "slice", "slice by tensor", "new dimension", "reshaped"],
)
def test_views_and_casts_stand_for_the_parameter(
    func: object, others: tuple[object, ...], expected: tuple[int | None, bool, bool]
) -> None:
    alias = followed(lambda _: (func, others))
    assert alias is not None
    assert (alias.name, alias.slice_index, alias.is_transposed, alias.is_reshaped) == ("weight", *expected)


@pytest.mark.parametrize(
    ("func", "others"),
    [
        (torch.Tensor.mul, (2.0,)),
        (torch.Tensor.__getitem__, (slice(0, 2),)),
        (torch.Tensor.transpose, (0, 1)),
        (torch.Tensor.add, (torch.ones(5),)),
    ],
    ids=["scaled", "part of the rows", "three dimensions transposed", "tensor added"],
)
def test_other_results_do_not(func: object, others: tuple[object, ...]) -> None:
    assert followed(lambda _: (func, others)) is None


def test_a_transposition_undoes_another() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4))
    aliases = ParameterAliases({id(weight): "weight"})
    once = aliases.result_alias(torch.Tensor.t, (weight,))
    assert once is not None
    assert once.is_transposed
    transposed = weight.t()
    aliases.remember(transposed, once)
    twice = aliases.result_alias(torch.Tensor.t, (transposed,))
    assert twice is not None
    assert not twice.is_transposed
    aliases.clear()
    assert aliases.alias_of(transposed) is None
    assert aliases.alias_of(weight) is not None
