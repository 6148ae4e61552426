"""The policy of a forecast: log-probs, gradients and derivatives of any number of pairs in limited memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from entangle_cli.diagnose.scan.budget import SMALLEST_TOKENS, within_memory
from entangle_cli.engine.batch import plan_batches
from entangle_cli.engine.displacement import RELATIVE_STEPS, Derivatives, Weights
from entangle_cli.engine.scorer import Scorer
from entangle_cli.engine.update import inner_product, norm
from entangle_cli.errors import UnfinishedError
from entangle_cli.records.arrays import Floats
from entangle_cli.records.measurement import TokenizedPair

Result = TypeVar("Result")

GOOD_ERROR = 2e-4
"""Error of derivatives below which no other step size is tried."""


@dataclass(frozen=True, slots=True)
class CheckedDerivatives:
    """Derivatives along a direction, and their accuracy."""

    derivatives: Derivatives
    relative_step: float
    identity_error: float
    """Error of sum_i s_i <g_i, u> by finite differences against the exact <D, u>, relative to the sum of |parts|."""


class Policy:
    """A model with weights that can change.

    Args:
        scorer: an open scorer.
        parameters: the trained parameters by name.
        batch_tokens: tokens per batch; halved when memory runs out.
    """

    def __init__(self, scorer: Scorer, parameters: Mapping[str, nn.Parameter], batch_tokens: int) -> None:
        self.parameters = parameters
        self.weights = Weights(parameters)
        self._scorer = scorer
        self._batch_tokens = batch_tokens

    def log_probs(self, tokens: Sequence[TokenizedPair]) -> Tensor:
        """Log-probs of chosen and rejected with the current weights, nats, float64 [2, pairs].

        Raises:
            UnfinishedError: a single pair does not fit into memory. The other methods raise it too.
        """

        def work() -> Tensor:
            log_probs = torch.empty(2, len(tokens), dtype=torch.float64)
            for batch in plan_batches(tokens, self._batch_tokens):
                log_probs[:, batch] = self._scorer.log_probs([tokens[position] for position in batch])
            return log_probs

        return self._within_memory(work)

    def gradient(self, tokens: Sequence[TokenizedPair], weights: Floats) -> dict[str, Tensor]:
        """Sum over all pairs of weights [2, pairs] times the gradients of chosen and rejected."""
        by_pair = torch.from_numpy(weights)

        def work() -> dict[str, Tensor]:
            batches = plan_batches(tokens, self._batch_tokens)
            parts = (([tokens[position] for position in batch], by_pair[:, batch]) for batch in batches)
            return self._scorer.weighted_gradient(parts, self.parameters)

        return self._within_memory(work)

    def derivatives(
        self, tokens: Sequence[TokenizedPair], before: Floats, direction: Mapping[str, Tensor], relative_step: float
    ) -> Derivatives:
        """Derivatives of the pairs' log-probs along a direction; see `Weights.derivatives`."""
        start = torch.from_numpy(before)
        return self.weights.derivatives(lambda: self.log_probs(tokens), start, direction, relative_step)

    def checked_derivatives(
        self,
        tokens: Sequence[TokenizedPair],
        before: Floats,
        direction: Mapping[str, Tensor],
        shares: Floats,
        descent: Mapping[str, Tensor],
        good_error: float = GOOD_ERROR,
    ) -> CheckedDerivatives:
        """Derivatives along a direction u, with the most accurate finite-difference step.

        With D = sum_i s_i g_i, the exact value of sum_i s_i <g_i, u> is <D, u>. The sum can match it by chance, or
        because errors of chosen and rejected cancel. The selection therefore also includes the expected rounding and
        curvature errors of the parts.

        Args:
            shares: s, [2, pairs].
            descent: D.
            good_error: error below which no other step size is tried.
        """
        exact = inner_product(descent, direction)
        best: tuple[float, CheckedDerivatives] | None = None
        for relative_step in RELATIVE_STEPS:
            derivatives = self.derivatives(tokens, before, direction, relative_step)
            parts = shares * derivatives.first.numpy()
            # Pairs in conflict cancel in the sum, so its error is relative to the parts.
            size = float(np.abs(parts).sum())
            identity_error = abs(float(parts.sum()) - exact) / size if size else 0.0
            rounding, bend = (
                float((np.abs(shares) * part.numpy()).sum()) / size if size else 0.0
                for part in (derivatives.one_rounding, derivatives.bend)
            )
            # `bend` is the third order relative to the first. The error is of fifth order, which is about bend^2.
            error = max(identity_error, rounding, bend**2)
            if best is None or error < best[0]:
                best = error, CheckedDerivatives(derivatives, relative_step, identity_error)
            if error <= good_error:
                break
        assert best is not None
        return best[1]

    def drift(self, pair: TokenizedPair, direction: Mapping[str, Tensor]) -> float | None:
        """Change of a pair's gradients when the weights move along a direction, relative to |g_c - g_r|.

        The change is the root mean square of those of g_c and g_r. None if g_c equals g_r.
        """
        before = [self._one_gradient(pair, side) for side in (0, 1)]
        size = norm({name: before[0][name] - before[1][name] for name in direction})
        if size == 0.0:
            return None
        squares = 0.0
        with self.weights.moved(direction):
            for side, start in enumerate(before):
                after = self._one_gradient(pair, side)
                squares += norm({name: after[name] - start[name] for name in direction}) ** 2
        return math.sqrt(squares / 2) / size

    def _one_gradient(self, pair: TokenizedPair, side: int) -> dict[str, Tensor]:
        """The gradient of the log-prob of a pair's chosen (0) or rejected (1) answer."""
        return self.gradient([pair], np.eye(2)[:, [side]])

    def _within_memory(self, work: Callable[[], Result]) -> Result:
        while True:
            result = within_memory(work)
            if result is not None:
                return result
            if self._batch_tokens < SMALLEST_TOKENS // 16:
                raise UnfinishedError(
                    "out of memory on a single pair",
                    "memory for one pair and about five copies of the trained weights",
                    "lower --max-length, select fewer --parameters, or use a larger device",
                )
            self._batch_tokens //= 2
