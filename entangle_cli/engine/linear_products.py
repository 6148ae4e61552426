"""Which arithmetic computes the products of linear weights: the only place where a device decides it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entangle_cli.engine import device_products, products
from entangle_cli.engine.costs import RouteCosts


@dataclass(frozen=True, slots=True)
class LinearProducts:
    """Functions of one device. All devices give the same results."""

    input_grams: Callable[[Tensor, int], Any]
    """Inputs [B, T, I] and the number of shared leading positions, to grams for `gram_products`."""
    gram_products: Callable[[Any, Sequence[Tensor]], Tensor]
    """Input grams and the gradients [B, T, O] of one or more weights, to the sum of their products [3, P]."""
    materialised_products: Callable[[Tensor, Tensor], Tensor]
    """Inputs [B, T, I] and gradients [B, T, O], to products [3, P]."""
    route_costs: Callable[[int, int, int, Sequence[int]], RouteCosts]
    """T, number of shared positions, I, and O of the weights that read one input, to the costs of both routes."""


def linear_products(device: torch.device, dtype: torch.dtype) -> LinearProducts:
    """The functions for a device and the dtype of the model."""
    if device.type == "cpu":
        return LinearProducts(
            products.InputGrams, products.gram_products, products.materialised_products, products.route_costs
        )

    def route_costs(num_tokens: int, _: int, num_inputs: int, widths: Sequence[int]) -> RouteCosts:
        return device_products.route_costs(num_tokens, num_inputs, widths, dtype)

    return LinearProducts(
        device_products.BlockGrams,
        device_products.gram_products,
        device_products.materialised_products,
        route_costs,
    )
