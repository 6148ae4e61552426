"""Changes of log-probs when the weights move along a direction: first and second order, or measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from entangle_cli.engine.update import norm

RELATIVE_STEPS = (5e-5, 1e-5, 5e-4, 5e-3)
"""Step sizes of the finite differences, relative to the norm of the moved weights, usually best first. Small steps suit
sharp models. Large steps suit fresh adapters, because their weights are small compared with the model's."""

ROUNDING = torch.finfo(torch.float32).eps
"""Relative rounding error of a log-prob. It also holds for float64 models: their norms compute in float32."""

ROUNDING_MARGIN = 16.0
"""Bound on the error of a log-prob difference, in units of one rounding error. Measured errors are well below it."""


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Derivatives of log-probs along a direction; float64, shaped like the log-probs."""

    first: Tensor
    """<gradient, direction>, nats."""
    second: Tensor
    """direction' Hessian direction, nats."""
    bend: Tensor
    """Third-order error of the plain difference of the inner points. The remaining error of `first` is smaller by about
    the same ratio."""
    first_error: Tensor
    """Bound on the rounding error of `first`."""
    second_error: Tensor
    """Bound on the rounding error of `second`."""

    @property
    def one_rounding(self) -> Tensor:
        """Expected rounding error of `first`, from one rounding per log-prob. `first_error` is its bound."""
        return self.first_error / ROUNDING_MARGIN


class Weights:
    """Parameters that can be moved and restored exactly. Holds a copy of them.

    Args:
        parameters: name to parameter.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = parameters
        self._start = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @contextmanager
    def moved(self, direction: Mapping[str, Tensor], length: float = 1.0) -> Iterator[None]:
        """Set the parameters to start + length * direction inside the block."""
        try:
            for name, parameter in self.parameters.items():
                parameter.data.copy_(self._start[name]).add_(direction[name], alpha=length)
            yield
        finally:
            self.restore()

    def restore(self) -> None:
        """Restore every parameter bit for bit."""
        for name, parameter in self.parameters.items():
            parameter.data.copy_(self._start[name])

    def derivatives(
        self, log_probs: Callable[[], Tensor], before: Tensor, direction: Mapping[str, Tensor], relative_step: float
    ) -> Derivatives:
        """Central differences of log-probs along a direction, from four points at +-h and +-2h.

        First order: (8 (z(h) - z(-h)) - (z(2h) - z(-2h))) / 12h, with an error of order h^4. Second order:
        (z(2h) - 2 z(0) + z(-2h)) / 4h^2. Rounding errors are divided by h and by 4h^2.

        Args:
            log_probs: computes log-probs with the current parameters.
            before: log-probs at the start.
            direction: change of every parameter in one step, by parameter name.
            relative_step: h relative to the norm of the weights.
        Cost: four forward passes.
        """
        length = norm(direction)
        if length == 0.0:
            return Derivatives(*(torch.zeros_like(before) for _ in range(5)))
        # The norm is 0 if all weights are zero, such as a fresh adapter's B.
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
