"""Definition of a loss: a function from the log-probs and lengths of a pair to two coefficients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from entangle_cli.records.arrays import Floats

TRL_BETA = 0.1
"""Default `beta` of TRL's DPOConfig, CPOConfig, ORPOConfig and KTOConfig."""


LIKELIHOOD_RAISES_BOTH = "both rise by design: a likelihood term lifts what the answers share"
"""Of losses whose likelihood term outweighs their margin term at usual settings."""


@dataclass(frozen=True, eq=False)
class LossPoint:
    """Inputs of a preference loss for every pair. All arrays are float64, [pairs]."""

    chosen_log_prob: Floats
    """Sum over the scored response tokens, nats."""
    rejected_log_prob: Floats
    chosen_ref_log_prob: Floats
    """Log-prob of the reference; equal to the policy's array if the checkpoint is its own reference."""
    rejected_ref_log_prob: Floats
    chosen_tokens: Floats
    """Number of scored tokens; 0 counts as 1, as in TRL's `clamp(min=1)`."""
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
    """Weights of a pair's two gradients in the descent direction, per nat. Both arrays are float64, [pairs]."""

    chosen: Floats
    """-d loss / d chosen_log_prob."""
    rejected: Floats
    """+d loss / d rejected_log_prob."""


@dataclass(frozen=True)
class Option:
    """A number of a loss in addition to beta."""

    default: float
    meaning: str
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class Loss:
    """A preference loss: its description, source and coefficients."""

    name: str
    """TRL's name if TRL has this loss."""
    title: str
    formula: str
    """The loss of one pair, with the symbols defined in this package and option names."""
    source: str
    coefficients: Callable[[LossPoint, Mapping[str, float]], Coefficients]
    """Computes the coefficients from the pairs and from `beta` (positive and finite) and all options by name."""
    uses_reference: bool
    """Whether the coefficients depend on the reference log-probs."""
    uses_lengths: bool
    """Whether the coefficients depend on the token counts."""
    uses_beta: bool = True
    depends_on_batch: bool = False
    """Whether a pair's coefficients depend on the other pairs of its batch."""
    options: Mapping[str, Option] = field(default_factory=dict)
    customary_beta: float = TRL_BETA
    """The beta that people train with: TRL's default, or the paper's where TRL's is not meant for the loss."""
    by_design: str | None = None
    """What the loss does to both log-probs on purpose; None for one that means to separate them."""


def logistic(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), with exp of negative numbers only: no overflow, and full precision in both tails."""
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, decay) / (1.0 + decay)


def logistic_slope(x: Floats) -> Floats:
    """Derivative of the logistic function."""
    return logistic(x) * logistic(-x)


def softplus(x: Floats) -> Floats:
    """log(1 + exp(x)) = -log sigma(-x), without overflow."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def where_below(values: Floats, limit: float, then: float) -> Floats:
    """`then` for values below the limit, 0 for other values, NaN for NaN."""
    return np.where(np.isnan(values), np.nan, np.where(values < limit, then, 0.0))
