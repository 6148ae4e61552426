"""How log-probs change when the weights move along a direction: to first and to second order, or for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from entangle_cli.engine.update import norm

RELATIVE_STEPS = {torch.float32: (1e-5, 3e-6, 3e-5), torch.float64: (1e-7, 1e-8, 1e-6)}
"""Lengths of the step of a difference, relative to that of the weights, the usual best first. In float32, on three
trained models, 1e-5 is off by 1e-6 to 4e-3, mostly below 2e-4; 1e-4 by up to 7 % from curvature, 1e-6 by 0.5 % from
rounding."""

LOG_PROB_ROUNDING = 16.0
"""Error of a log-prob's difference in units of its dtype's epsilon times its size; measured with room to spare."""


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Derivatives of log-probs along a direction; float64, shaped like the log-probs."""

    first: Tensor
    """<gradient, direction>, nats."""
    second: Tensor
    """direction' Hessian direction, nats."""
    first_error: Tensor
    """Bound of the rounding in `first`."""
    second_error: Tensor
    """Bound of the rounding in `second`."""


class Weights:
    """Parameters that can be moved and come back exactly; holds a copy of them.

    Args:
        parameters: name to parameter.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = parameters
        self._start = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @contextmanager
    def moved(self, direction: Mapping[str, Tensor], length: float = 1.0) -> Iterator[None]:
        """Inside, the parameters are start + length * direction."""
        try:
            for name, parameter in self.parameters.items():
                parameter.data.copy_(self._start[name]).add_(direction[name], alpha=length)
            yield
        finally:
            self.restore()

    def restore(self) -> None:
        """Put every parameter back to the bit."""
        for name, parameter in self.parameters.items():
            parameter.data.copy_(self._start[name])

    def derivatives(
        self, log_probs: Callable[[], Tensor], before: Tensor, direction: Mapping[str, Tensor], relative_step: float
    ) -> Derivatives:
        """Central differences of log-probs along a direction.

        (z(+h) - z(-h)) / 2h and (z(+h) - 2 z(0) + z(-h)) / h^2: errors of order h^2, and rounding over h and h^2.

        Args:
            log_probs: computes them with the parameters as they are at the time.
            before: what it gives now.
            direction: a tensor a parameter; what 1 step of it changes.
            relative_step: length of the difference's step relative to that of the weights.
        Cost: two forwards.
        """
        length = norm(direction)
        if length == 0.0:
            return Derivatives(*(torch.zeros_like(before) for _ in range(4)))
        dtype = next(iter(self.parameters.values())).dtype
        step = relative_step * norm(self._start) / length
        with self.moved(direction, step):
            above = log_probs()
        with self.moved(direction, -step):
            below = log_probs()
        rounding = LOG_PROB_ROUNDING * torch.finfo(dtype).eps * before.abs()
        return Derivatives(
            first=(above - below) / (2 * step),
            second=(above - 2 * before + below) / step**2,
            first_error=rounding / step,
            second_error=4 * rounding / step**2,
        )
