"""The results of a forecast as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from entangle_cli.diagnose.forecast.followed_probes import ProbeForecast
from entangle_cli.records.arrays import Floats
from entangle_cli.records.measurement import TokenizedPair
from entangle_cli.records.pair import PairRecord
from entangle_cli.records.settings import OptimizerSettings

ONE_STEP = ("pair-sgd", "batch-sgd", "optimizer")
"""Names of the predictors of one step in all outputs; see `forecast`."""

PREDICTORS = (*ONE_STEP, "run")
"""All predictors. `run` is the end of a run; see `horizon`."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Pairs and their values before the step; arrays are [2, pairs]: chosen, then rejected."""

    records: list[PairRecord]
    tokens: list[TokenizedPair]
    log_probs: Floats
    """[2, pairs], nats."""
    references: Floats
    """Log-probs of the reference, [2, pairs]; of the policy for pairs without a reference."""
    lengths: Floats
    """Scored tokens, [2, pairs]."""

    def __len__(self) -> int:
        return len(self.records)

    def at(self, positions: NDArray[np.intp]) -> Measured:
        """The pairs at these positions."""
        return Measured(
            [self.records[position] for position in positions],
            [self.tokens[position] for position in positions],
            self.log_probs[:, positions],
            self.references[:, positions],
            self.lengths[:, positions],
        )


@dataclass(frozen=True, slots=True)
class Forecast:
    """The effect of one step on pairs. Changes are in nats at the user's learning rate, [2, pairs]."""

    pairs: Measured
    batch: NDArray[np.int64]
    """The step that contains the pair, from 0."""
    changes: Mapping[str, Floats]
    """By predictor."""
    error: Floats
    """Upper bound of the rounding error in the changes of `optimizer`."""
    run_error: Floats
    """Upper bound of the rounding error in the changes of `run`."""
    valid_learning_rate: Floats
    """Learning rate at which the second order of `optimizer`, or its rounding error, is as large as the first order."""
    others: Floats
    """The part of `batch-sgd` that comes from the other pairs of the batch."""
    influence: Floats
    """Change of the sum of all other pairs' margins by the pair's own part of the batch step, [pairs]."""


LARGEST_DRIFT = 0.03
"""Drift up to which the forecast of a run holds (tests/benchmarks/horizon.py)."""


@dataclass(frozen=True, slots=True)
class RunReach:
    """The run behind the predictor `run`, and how far to trust it."""

    num_steps: int
    learning_rate_sum: float
    identity_error: float
    """As in `StepCheck`, along the direction of the run."""
    drift: float | None
    """Median change of the probed pairs' gradients along the run, relative to |g_c - g_r|; None without a probe."""
    num_probes: int

    @property
    def holds(self) -> bool | None:
        """Whether the drift is small enough for the forecast to hold; None without a probe."""
        return None if self.drift is None else self.drift <= LARGEST_DRIFT


@dataclass(frozen=True, slots=True)
class StepCheck:
    """Accuracy of the forecast of one step."""

    identity_error: float
    """Error of sum_i s_i <g_i, u> by finite differences against the exact <D, u>, relative to the sum of |parts|;
    maximum over three directions u."""
    gradient_norm: float
    clip_factor: float


@dataclass(slots=True)
class ForecastResult:
    """All results of a forecast."""

    optimizer: OptimizerSettings
    state_step: int | None
    """Number of earlier optimizer steps; None without a state."""
    training: Forecast
    held_out: Forecast | None
    probes: ProbeForecast | None
    """Probe answers along the first step; None without them."""
    checks: list[StepCheck]
    reach: RunReach
    unused: list[PairRecord]
    """Rows that are not in any step, with their reasons."""
    held_out_unused: list[PairRecord]
    real_steps: dict[float, Floats] = field(default_factory=dict)
    """Learning rate to the measured changes of a real step, [2, pairs]."""


def empty_forecast(pairs: Measured) -> Forecast:
    """A forecast without results; all numbers are NaN."""

    def undefined() -> Floats:
        return np.full((2, len(pairs)), np.nan)

    return Forecast(
        pairs,
        np.zeros(len(pairs), dtype=np.int64),
        {name: undefined() for name in PREDICTORS},
        undefined(),
        undefined(),
        undefined(),
        undefined(),
        np.full(len(pairs), np.nan),
    )
