"""Probe answers along the first step of a forecast and along its run. They take no part in either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from entangle_cli.data.pairs import SkippedRow
from entangle_cli.diagnose.forecast.policy import Policy
from entangle_cli.diagnose.probes.tokenized import AnswerPack, TokenizedProbe
from entangle_cli.records.arrays import Floats


@dataclass(frozen=True, slots=True)
class ProbeForecast:
    """The effect of the first step and of a run on probe answers. Arrays are [answers], in nats."""

    probes: Sequence[TokenizedProbe]
    skipped: Sequence[SkippedRow]
    """Rows that cannot be used, with their reasons."""
    log_probs: Floats
    """Before the step."""
    changes: dict[str, Floats] = field(default_factory=dict)
    """By predictor, `optimizer` or `run`."""
    errors: dict[str, Floats] = field(default_factory=dict)
    """Upper bounds of the rounding errors in the changes, by predictor."""
    real_steps: dict[float, Floats] = field(default_factory=dict)
    """Learning rate to the measured changes of a real first step."""


class FollowedProbes:
    """Collects the forecast of probe answers.

    Args:
        policy: the model whose weights move.
        probes: answers with their tokens, at least one.
    Cost: one forward pass over the answers, four more for each direction, and one for each real step.
    """

    def __init__(self, policy: Policy, probes: Sequence[TokenizedProbe], skipped: Sequence[SkippedRow]) -> None:
        self._policy = policy
        self._pack = AnswerPack([probe.tokens for probe in probes])
        self.forecast = ProbeForecast(probes, skipped, self._log_probs())

    def follow(self, predictor: str, direction: Mapping[str, Tensor], relative_step: float) -> None:
        """Forecast the changes along a direction, to first order.

        Args:
            relative_step: step of the finite differences that was most accurate for the pairs.
        """
        before = self._pack.by_side(self.forecast.log_probs)
        derivatives = self._policy.derivatives(self._pack.pairs, before, direction, relative_step)
        self.forecast.changes[predictor] = self._pack.by_answer(derivatives.first)
        self.forecast.errors[predictor] = self._pack.by_answer(derivatives.first_error)

    def measure(self, rate: float) -> None:
        """Measure the changes now, after a real step at a learning rate."""
        self.forecast.real_steps[rate] = np.asarray(self._log_probs() - self.forecast.log_probs)

    def _log_probs(self) -> Floats:
        return self._pack.log_probs(self._policy.log_probs)
