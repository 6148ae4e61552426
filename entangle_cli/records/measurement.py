"""The engine's input and output: the tokens of a pair, and measurements that do not depend on a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenizedResponse:
    """Token ids of prompt and response, after truncation."""

    ids: tuple[int, ...]
    first_scored: int
    """Position of the first scored token, at least 1: position 0 has no predecessor."""
    truncated: bool = False

    @property
    def num_scored(self) -> int:
        """Number of tokens whose log-probs are summed."""
        return max(0, len(self.ids) - self.first_scored)


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """The two responses of a pair, ready for the engine."""

    chosen: TokenizedResponse
    rejected: TokenizedResponse


@dataclass(frozen=True, slots=True)
class GroupProducts:
    """Products of one pair within one parameter group. Summed over all groups they give the pair's products."""

    group: str
    chosen_squared_norm: float
    rejected_squared_norm: float
    inner_product: float


@dataclass(frozen=True, slots=True)
class PairMeasurement:
    """Measurements of a pair, independent of any loss."""

    chosen_log_prob: float
    """Sum over scored tokens, nats."""
    rejected_log_prob: float
    chosen_squared_norm: float
    """|g_chosen|^2, in nats^2 per squared parameter unit."""
    rejected_squared_norm: float
    inner_product: float
    ches: float | None = None
    """<S_c, S_r> - |S_c|^2, where S is the sum of a response's last hidden states; None if the head was not seen."""
    length_normalised_ches: float | None = None
    """The same with S as the mean."""
    head_inner_product: float | None = None
    """The unembedding's part of `inner_product`; None if the unembedding is not among the parameters."""
    groups: tuple[GroupProducts, ...] = ()
    """The products by parameter group; empty if the engine was created without groups."""


def shared_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    """Length of the common prefix of two sequences of tokens, characters or messages."""
    differences = (index for index, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    return next(differences, min(len(left), len(right)))
