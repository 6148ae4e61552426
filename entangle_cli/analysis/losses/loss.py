"""What a loss is: where a pair stands goes in, two coefficients come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from entangle_cli.records.arrays import Floats

TRL_BETA = 0.1
"""Default `beta` of TRL's DPOConfig, CPOConfig, ORPOConfig and KTOConfig."""


@dataclass(frozen=True, eq=False)
class LossPoint:
    """Where each pair stands: all a preference loss looks at. Every array is float64, [pairs]."""

    chosen_log_prob: Floats
    """Sum over the scored response tokens, nats."""
    rejected_log_prob: Floats
    chosen_ref_log_prob: Floats
    """The reference's; the policy's own array where the reference is this checkpoint."""
    rejected_ref_log_prob: Floats
    chosen_tokens: Floats
    """Scored tokens; 0 counts as 1, as in TRL's `clamp(min=1)`."""
    rejected_tokens: Floats

    @property
    def chosen_log_ratio(self) -> Floats:
        """Policy minus reference, nats, [pairs]."""
        return self.chosen_log_prob - self.chosen_ref_log_prob

    @property
    def rejected_log_ratio(self) -> Floats:
        """Policy minus reference, nats, [pairs]."""
        return self.rejected_log_prob - self.rejected_ref_log_prob

    @property
    def margin(self) -> Floats:
        """Chosen minus rejected log-ratio, nats, [pairs]."""
        return self.chosen_log_ratio - self.rejected_log_ratio

    @property
    def chosen_length(self) -> Floats:
        """Divisor of a token average, at least 1, [pairs]."""
        return np.maximum(self.chosen_tokens, 1.0)

    @property
    def rejected_length(self) -> Floats:
        """Divisor of a token average, at least 1, [pairs]."""
        return np.maximum(self.rejected_tokens, 1.0)


class Coefficients(NamedTuple):
    """How hard a loss pushes each log-prob of a pair, per nat. Both arrays are float64, [pairs]."""

    chosen: Floats
    """-d loss / d chosen_log_prob."""
    rejected: Floats
    """+d loss / d rejected_log_prob."""


@dataclass(frozen=True)
class Option:
    """A number that a loss has beside beta."""

    default: float
    meaning: str
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class Loss:
    """A preference loss: what it is, where it is from, and its coefficients."""

    name: str
    """As TRL names it where TRL has it."""
    title: str
    formula: str
    """The loss of one pair, in the legend of this package; options by their names."""
    source: str
    coefficients: Callable[[LossPoint, Mapping[str, float]], Coefficients]
    """From the pairs and the loss's numbers: `beta`, positive and finite, and every option."""
    uses_reference: bool
    """Whether the coefficients depend on the reference log-probs."""
    uses_lengths: bool
    """Whether the coefficients depend on the token counts."""
    uses_beta: bool = True
    depends_on_batch: bool = False
    """Whether a pair's coefficients depend on the other pairs of its batch."""
    options: Mapping[str, Option] = field(default_factory=dict)


def logistic(x: Floats) -> Floats:
    """1 / (1 + exp(-x)); the exponential never sees a positive number: no overflow, full precision in both tails."""
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, decay) / (1.0 + decay)


def logistic_slope(x: Floats) -> Floats:
    """Derivative of the logistic function."""
    return logistic(x) * logistic(-x)


def softplus(x: Floats) -> Floats:
    """log(1 + exp(x)) = -log sigma(-x), without overflow."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def where_below(values: Floats, limit: float, then: float) -> Floats:
    """`then` where a value is below the limit, 0 elsewhere; NaN stays NaN, which no comparison alone would do."""
    return np.where(np.isnan(values), np.nan, np.where(values < limit, then, 0.0))
