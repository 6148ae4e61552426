"""What a forecast finds, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from entangle_cli.records.arrays import Floats
from entangle_cli.records.measurement import TokenizedPair
from entangle_cli.records.pair import PairRecord
from entangle_cli.records.settings import OptimizerSettings

PREDICTORS = ("pair-sgd", "batch-sgd", "optimizer")
"""Each named where a number of its is shown; see `forecast`."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Pairs with what is known of them before the step; arrays [pairs], or [2, pairs]: chosen, then rejected."""

    records: list[PairRecord]
    tokens: list[TokenizedPair]
    log_probs: Floats
    """[2, pairs], nats."""
    references: Floats
    """The reference's log-probs, [2, pairs]; the policy's own where no pair has any."""
    lengths: Floats
    """Scored tokens, [2, pairs]."""

    def __len__(self) -> int:
        return len(self.records)

    def at(self, places: NDArray[np.intp]) -> Measured:
        """Some of the pairs."""
        return Measured(
            [self.records[place] for place in places],
            [self.tokens[place] for place in places],
            self.log_probs[:, places],
            self.references[:, places],
            self.lengths[:, places],
        )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one step does to pairs. Changes are in nats at the user's learning rate, [2, pairs]."""

    pairs: Measured
    batch: NDArray[np.int64]
    """The step in which a pair takes part, from 0."""
    changes: Mapping[str, Floats]
    """By predictor."""
    error: Floats
    """Bound of the rounding in the changes under the optimizer's step."""
    valid_learning_rate: Floats
    """At which the second order of the optimizer's step is as large as the first, or may be by its rounding."""
    others: Floats
    """The part of `batch-sgd` that comes from the other pairs of its batch."""
    influence: Floats
    """What the pair's own part of the batch's step does to the sum of all other pairs' margins, [pairs]."""


@dataclass(frozen=True, slots=True)
class StepCheck:
    """The forecast of one step, computed in two ways that must agree."""

    identity_error: float
    """Of sum_i s_i <g_i, u> by differences against <D, u> by its own definition, relative to the sum of all parts'
    sizes; of three directions u the largest."""
    gradient_norm: float
    clip_factor: float


@dataclass(slots=True)
class ForecastResult:
    """Everything that a forecast found."""

    optimizer: OptimizerSettings
    state_step: int | None
    """Steps that the optimizer has taken before; None without a state."""
    training: Forecast
    held_out: Forecast | None
    checks: list[StepCheck]
    unused: list[PairRecord]
    """Rows that take no part, with their reasons."""
    held_out_unused: list[PairRecord]
    real_steps: dict[float, Floats] = field(default_factory=dict)
    """Learning rate to the measured changes of a real step at it, [2, pairs]."""
    trajectory: dict[int, Floats] = field(default_factory=dict)
    """Number of real steps to the measured changes since the start, [2, pairs]."""
    trajectory_held_out: dict[int, Floats] = field(default_factory=dict)


def empty_forecast(pairs: Measured) -> Forecast:
    """A forecast of pairs of which nothing is known yet: NaN throughout."""

    def undefined() -> Floats:
        return np.full((2, len(pairs)), np.nan)

    return Forecast(
        pairs,
        np.zeros(len(pairs), dtype=np.int64),
        {name: undefined() for name in PREDICTORS},
        undefined(),
        undefined(),
        undefined(),
        np.full(len(pairs), np.nan),
    )
