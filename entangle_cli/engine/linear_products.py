"""Which arithmetic computes the products of linear weights: the only place where a device decides it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entangle_cli.engine import device_products, products


@dataclass(frozen=True, slots=True)
class LinearProducts:
    """Functions of one device. All devices give the same results."""

    input_grams: Callable[[Tensor, int], Any]
    """Inputs [B, T, I] and the number of shared leading positions, to grams for `gram_products`."""
    gram_products: Callable[[Any, Tensor], Tensor]
    """Input grams and gradients [B, T, O], to products [3, P]."""
    materialised_products: Callable[[Tensor, Tensor], Tensor]
    """Inputs [B, T, I] and gradients [B, T, O], to products [3, P]."""
    gram_is_cheaper: Callable[[int, int, int, int, int], bool]
    """T, number of shared positions, I, O and number of weights that read the inputs, to the choice of route."""


def linear_products(device: torch.device, dtype: torch.dtype) -> LinearProducts:
    """The functions for a device and the dtype of the model."""
    if device.type == "cpu":
        return LinearProducts(
            products.InputGrams, products.gram_products, products.materialised_products, products.gram_is_cheaper
        )

    def gram_is_cheaper(num_tokens: int, _: int, num_inputs: int, num_outputs: int, num_users: int) -> bool:
        return device_products.gram_is_cheaper(num_tokens, num_inputs, num_outputs, num_users, dtype)

    return LinearProducts(
        device_products.WholeGrams,
        device_products.gram_products,
        device_products.materialised_products,
        gram_is_cheaper,
    )
