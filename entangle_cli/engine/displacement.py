"""How log-probs change when the weights move along a direction: to first and to second order, or for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from entangle_cli.engine.update import norm

RELATIVE_STEPS = (5e-5, 1e-5, 5e-4, 5e-3)
"""Spacings of a difference's points, relative to the length of the weights that move, the usual best first. Small ones
are for sharp models; the long ones for fresh adapters, whose weights are small against the model's."""

ROUNDING = torch.finfo(torch.float32).eps
"""Relative rounding of a log-prob; of float64 models too, whose norms compute in float32."""

ROUNDING_MARGIN = 16.0
"""How much larger than one rounding the error of a log-prob's difference may be; measured with room to spare."""


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Derivatives of log-probs along a direction; float64, shaped like the log-probs."""

    first: Tensor
    """<gradient, direction>, nats."""
    second: Tensor
    """direction' Hessian direction, nats."""
    bend: Tensor
    """What the third order would put into a plain difference of the inner points; what is left in `first` is smaller by
    about the same ratio."""
    first_error: Tensor
    """Bound of the rounding in `first`."""
    second_error: Tensor
    """Bound of the rounding in `second`."""

    @property
    def one_rounding(self) -> Tensor:
        """What one rounding of each log-prob makes in `first`: the error to expect, where `first_error` bounds it."""
        return self.first_error / ROUNDING_MARGIN


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
        """Central differences of log-probs along a direction, from four points at +-h and +-2h.

        First order: (8 (z(h) - z(-h)) - (z(2h) - z(-2h))) / 12h, with an error of order h^4; second order:
        (z(2h) - 2 z(0) + z(-2h)) / 4h^2. Both have rounding besides, over h and over 4h^2.

        Args:
            log_probs: computes them with the parameters as they are at the time.
            before: what it gives now.
            direction: a tensor a parameter; what 1 step of it changes.
            relative_step: h relative to the length of the weights.
        Cost: four forwards.
        """
        length = norm(direction)
        if length == 0.0:
            return Derivatives(*(torch.zeros_like(before) for _ in range(5)))
        # Weights that are all zero, as a fresh adapter's B, have no length of their own.
        step = relative_step * (norm(self._start) or 1.0) / length
        odd, even = [], []
        for distance in (step, 2 * step):
            with self.moved(direction, distance):
                above = log_probs()
            with self.moved(direction, -distance):
                below = log_probs()
            odd.append((above - below) / (2 * distance))
            even.append((above - 2 * before + below) / distance**2)
        rounding = ROUNDING_MARGIN * ROUNDING * before.abs()
        return Derivatives(
            first=(4 * odd[0] - odd[1]) / 3,
            second=even[1],
            bend=(odd[0] - odd[1]).abs() / 3,
            first_error=1.5 * rounding / step,
            second_error=rounding / step**2,
        )
