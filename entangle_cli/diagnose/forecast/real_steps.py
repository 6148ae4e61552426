"""Real steps of torch's optimizer on a copy of the weights, to compare forecasts with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from entangle_cli.diagnose.forecast.followed_probes import FollowedProbes
from entangle_cli.diagnose.forecast.pairs import Passes, step_shares
from entangle_cli.diagnose.forecast.policy import Policy
from entangle_cli.diagnose.forecast.result import Measured
from entangle_cli.engine.update import AdamMoments, clip_factor, make_optimizer
from entangle_cli.records.arrays import Floats
from entangle_cli.records.measurement import TokenizedPair
from entangle_cli.records.settings import LossSettings, OptimizerSettings


class RealSteps:
    """Takes real steps from the checkpoint. Its weights are restored afterwards.

    Args:
        moments: AdamW's state at the checkpoint, by parameter name.
    """

    def __init__(
        self,
        policy: Policy,
        loss: LossSettings,
        optimizer: OptimizerSettings,
        moments: Mapping[str, AdamMoments],
    ) -> None:
        self._policy = policy
        self._loss = loss
        self._optimizer = optimizer
        self._moments = moments

    def changes(
        self, pairs: Measured, steps: Sequence[Passes], rate: float, probes: FollowedProbes | None = None
    ) -> Floats:
        """Measured changes of every pair under a real step of its batch, starting from the checkpoint, [2, pairs].

        Args:
            probes: measured after the first step.
        """
        changes = np.full((2, len(pairs)), np.nan)
        for number, passes in enumerate(steps):
            positions = np.concatenate(passes)
            tokens = [pairs.tokens[position] for position in positions]
            with self._trained(rate) as take_step:
                take_step(tokens, step_shares(self._loss, pairs, pairs.log_probs, passes))
                changes[:, positions] = self._policy.log_probs(tokens).numpy() - pairs.log_probs[:, positions]
                if number == 0 and probes is not None:
                    probes.measure(rate)
        return changes

    @contextmanager
    def _trained(self, rate: float) -> Iterator[Callable[[Sequence[TokenizedPair], Floats], None]]:
        """Perform real steps of torch's optimizer inside the context; restores the checkpoint's weights afterwards."""
        settings = replace(self._optimizer, learning_rate=rate)
        optimizer = make_optimizer(self._policy.parameters, settings, self._moments)

        def take_step(tokens: Sequence[TokenizedPair], shares: Floats) -> None:
            descent = self._policy.gradient(tokens, shares)
            factor = clip_factor(descent, settings.max_grad_norm)
            for name, parameter in self._policy.parameters.items():
                parameter.grad = -factor * descent[name]
            optimizer.step()
            optimizer.zero_grad()

        try:
            yield take_step
        finally:
            optimizer.zero_grad()
            self._policy.weights.restore()
