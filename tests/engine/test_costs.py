"""The choice of routes."""

from __future__ import annotations

from itertools import product

import pytest

from entangle_cli.engine.costs import RouteCosts


@pytest.mark.parametrize("input_grams", [0.0, 1.0, 4.0, 9.0])
@pytest.mark.parametrize("gram", list(product((1.0, 3.0), repeat=3)))
@pytest.mark.parametrize("materialised", [(2.0, 2.0, 2.0), (5.0, 2.0, 0.5), (9.0, 9.0, 1.0)])
def test_no_other_choice_is_cheaper(
    input_grams: float, gram: tuple[float, ...], materialised: tuple[float, ...]
) -> None:
    def total(choice: tuple[bool, ...]) -> float:
        parts = [
            of_gram if takes_gram else other
            for takes_gram, of_gram, other in zip(choice, gram, materialised, strict=True)
        ]
        return sum(parts) + input_grams * any(choice)

    chosen = RouteCosts(input_grams, gram, materialised).on_gram_route()
    assert total(tuple(chosen)) == min(total(choice) for choice in product((False, True), repeat=3))
