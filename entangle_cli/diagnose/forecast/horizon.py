"""The end of a run: the direction of the whole data, scaled as the optimizer scales it, times the learning rates.

Every step of a run pulls in its own direction. Over many steps these average to the direction of the whole data. AdamW
divides it by the root of the second moments, which hardly change from step to step. To first order, a run therefore
moves the weights by

    u = sum_t lr_t * mean_b(c_b D_b) / sqrt(E_b[(c_b D_b)^2])

with D_b the descent of step b's loss at the start and c_b its clip factor. SGD has no root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from entangle_cli.diagnose.forecast.followed_probes import FollowedProbes
from entangle_cli.diagnose.forecast.policy import Policy
from entangle_cli.diagnose.forecast.result import Forecast, Measured, RunReach
from entangle_cli.engine.update import AdamMoments, clip_factor, run_update
from entangle_cli.records.arrays import Floats
from entangle_cli.records.settings import OptimizerSettings

MOMENT_STEPS = 20
"""Steps whose squared gradients are averaged, from the start of the epoch."""

RUN_ERROR = 5e-3
"""Error of a run's derivatives below which no other step size is tried. A run is not known more exactly."""

NUM_PROBES = 12
"""Pairs whose gradients are compared at both ends of a run."""


class MeanDescent:
    """Collects the descents of all steps of an epoch.

    Args:
        num_steps: number of steps of the epoch.
    """

    def __init__(self, num_steps: int, optimizer: OptimizerSettings, moments: Mapping[str, AdamMoments]) -> None:
        self._num_steps = num_steps
        self._optimizer = optimizer
        self._moments = moments
        self._num_added = 0
        self.descent: dict[str, Tensor] = {}
        """Mean of the clipped descents."""
        self._squares: dict[str, Tensor] = {}

    def add(self, descent: Mapping[str, Tensor]) -> float:
        """Add the next step's descent. Returns its weight in the mean: the clip factor over the number of steps."""
        factor = clip_factor(descent, self._optimizer.max_grad_norm)
        is_averaged = self._optimizer.name == "adamw" and self._num_added < MOMENT_STEPS
        for name, tensor in descent.items():
            clipped = factor * tensor
            _accumulate(self.descent, name, clipped / self._num_steps)
            if is_averaged and name not in self._moments:
                _accumulate(self._squares, name, clipped.square() / min(MOMENT_STEPS, self._num_steps))
        self._num_added += 1
        return factor / self._num_steps

    def update(self, parameters: Mapping[str, nn.Parameter], learning_rate_sum: float) -> dict[str, Tensor]:
        """The change of every parameter over a run."""
        saved = {
            name: moments.exp_avg_sq.to(parameters[name]) / (1 - self._optimizer.betas[1] ** moments.step)
            for name, moments in self._moments.items()
        }
        return run_update(self.descent, self._squares | saved, parameters, self._optimizer, learning_rate_sum)


def _accumulate(sums: dict[str, Tensor], name: str, part: Tensor) -> None:
    if name in sums:
        sums[name] += part
    else:
        sums[name] = part


def forecast_run(
    policy: Policy,
    training: Forecast,
    held_out: Forecast | None,
    probes: FollowedProbes | None,
    mean: MeanDescent,
    shares: Floats,
    rates: Sequence[float],
) -> RunReach:
    """Forecast all pairs and probe answers at the end of a run, in place.

    Args:
        shares: s of every pair in the mean descent, [2, pairs].
        rates: the learning rate of every step.
    """
    pairs = training.pairs
    update = mean.update(policy.parameters, sum(rates))
    along = policy.checked_derivatives(pairs.tokens, pairs.log_probs, update, shares, mean.descent, RUN_ERROR)
    training.changes["run"][:] = along.derivatives.first.numpy()
    training.run_error[:] = along.derivatives.first_error.numpy()
    if held_out is not None:
        start = held_out.pairs
        derivatives = policy.derivatives(start.tokens, start.log_probs, update, along.relative_step)
        held_out.changes["run"][:] = derivatives.first.numpy()
        held_out.run_error[:] = derivatives.first_error.numpy()
    if probes is not None:
        probes.follow("run", update, along.relative_step)
    drift, num_probes = median_drift(policy, pairs, update)
    return RunReach(len(rates), sum(rates), along.identity_error, drift, num_probes)


def median_drift(policy: Policy, pairs: Measured, update: Mapping[str, Tensor]) -> tuple[float | None, int]:
    """Median drift of some pairs along a run (see `Policy.drift`), and their number; None without a pair."""
    probes = (pairs.tokens[position] for position in probe_positions(len(pairs), NUM_PROBES))
    drifts = [drift for pair in probes if (drift := policy.drift(pair, update)) is not None]
    return (float(np.median(drifts)) if drifts else None), len(drifts)


def probe_positions(num_pairs: int, num_probes: int) -> list[int]:
    """Positions of pairs spread evenly over the data."""
    return sorted(set(np.linspace(0, num_pairs - 1, min(num_probes, num_pairs)).round().astype(int).tolist()))
