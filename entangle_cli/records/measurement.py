"""What the engine takes and gives: the tokens of a pair, and the numbers that no loss changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenizedResponse:
    """Prompt and response as the model reads them, after truncation."""

    ids: tuple[int, ...]
    first_scored: int
    """Position of the first token whose log-prob counts, at least 1: position 0 has no predecessor."""
    truncated: bool = False

    @property
    def num_scored(self) -> int:
        """Tokens whose log-probs are summed."""
        return max(0, len(self.ids) - self.first_scored)


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """The two responses of a pair, ready for the engine."""

    chosen: TokenizedResponse
    rejected: TokenizedResponse


@dataclass(frozen=True, slots=True)
class GroupProducts:
    """A group of parameters' part of what is measured of a pair: the parts of all groups add up to it."""

    group: str
    chosen_squared_norm: float
    rejected_squared_norm: float
    inner_product: float


@dataclass(frozen=True, slots=True)
class PairMeasurement:
    """What the engine measures of a pair; independent of any loss."""

    chosen_log_prob: float
    """Sum over scored tokens, nats."""
    rejected_log_prob: float
    chosen_squared_norm: float
    """|g_chosen|^2, in nats^2 per squared parameter unit."""
    rejected_squared_norm: float
    inner_product: float
    ches: float | None = None
    """<S_c, S_r> - |S_c|^2, S the sum of a response's last hidden states; None where the head was not seen."""
    length_normalised_ches: float | None = None
    """The same of their means."""
    head_inner_product: float | None = None
    """The unembedding's part of `inner_product`; None where it is not among the parameters."""
    groups: tuple[GroupProducts, ...] = ()
    """The same products by group of parameters, where the engine was told groups."""


def shared_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    """Tokens, characters or messages that two sequences both start with."""
    differences = (place for place, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    return next(differences, min(len(left), len(right)))
