"""What the token Gram of a pair says: each token's push on both answers, the tokens' roles, what a mask would change.

With M the Gram of the tokens' gradients and a loss whose coefficients are d_c and d_r, one small step moves token t of
the chosen answer by (d_c M_cc 1 - d_r M_cr 1)_t and token s of the rejected one by (d_c M_rc 1 - d_r M_rr 1)_s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from entangle_cli.analysis.movement import movement_names
from entangle_cli.records.arrays import Floats


class Role(StrEnum):
    """What a token is to the other answer."""

    PREFIX = "prefix"
    """Both answers start with it."""
    CONTRASTIVE = "contrastive"
    """Where the answers differ: it stands in place of other tokens."""
    SHARED = "shared"
    """Behind the first difference, and in both."""
    REST = "rest"
    """In one answer only, in place of nothing."""


def token_roles(chosen: Sequence[int], rejected: Sequence[int]) -> tuple[list[Role], list[Role]]:
    """The role of each token of both answers, by alignment (Ratcliff and Obershelp, as difflib has it)."""
    roles = ([Role.REST] * len(chosen), [Role.REST] * len(rejected))
    matcher = SequenceMatcher(None, list(chosen), list(rejected), autojunk=False)
    for tag, left, left_end, right, right_end in matcher.get_opcodes():
        if tag == "equal":
            role = Role.PREFIX if left == right == 0 else Role.SHARED
        elif tag == "replace":
            role = Role.CONTRASTIVE
        else:
            continue
        roles[0][left:left_end] = [role] * (left_end - left)
        roles[1][right:right_end] = [role] * (right_end - right)
    return roles


class Pushes(NamedTuple):
    """How a step moves tokens and answers, nats per unit learning rate."""

    tokens_N: Floats
    """Of each token's log-prob, chosen first."""
    by_tokens_2N: Floats
    """What each token's own part of the step does to the chosen and to the rejected answer's log-prob, [2, n]."""

    def total(self, num_chosen: int) -> tuple[float, float]:
        """Of both answers' log-probs."""
        return float(self.tokens_N[:num_chosen].sum()), float(self.tokens_N[num_chosen:].sum())


def pushes(gram_NN: Floats, num_chosen: int, coefficients: tuple[float, float], mask_N: Floats | None = None) -> Pushes:
    """The pushes of a step in which tokens weigh as a mask says.

    Args:
        gram_NN: inner products of the tokens' gradients, chosen first.
        coefficients: the loss's d_c and d_r.
        mask_N: weight of each token in the loss; None for 1 throughout. What is pushed are the whole answers.
    """
    weights = np.concatenate(
        [np.full(num_chosen, coefficients[0]), np.full(len(gram_NN) - num_chosen, -coefficients[1])]
    )
    if mask_N is not None:
        weights = weights * mask_N
    by_tokens = np.stack([gram_NN[:num_chosen].sum(0), gram_NN[num_chosen:].sum(0)]) * weights
    return Pushes(gram_NN @ weights, by_tokens)


def masked_roles(
    gram_NN: Floats, num_chosen: int, coefficients_of: Callable[[Floats], tuple[float, float]], roles: Sequence[Role]
) -> list[dict[str, Any]]:
    """What leaving the tokens of one role out of the loss would change, for every role that there is; first nothing.

    Args:
        coefficients_of: the loss's d_c and d_r where tokens weigh as a mask says: log-probs and lengths are then those
            of the tokens that are left.
    Returns:
        One mapping a case: `masked` (a role or None), `tokens` of it, the answers' changes and the movement.
    """
    cases: list[Role | None] = [None, *(role for role in Role if role in roles)]
    found = []
    for case in cases:
        mask = np.array([0.0 if role is case else 1.0 for role in roles])
        chosen, rejected = pushes(gram_NN, num_chosen, coefficients_of(mask), mask).total(num_chosen)
        found.append(
            {
                "masked": None if case is None else case.value,
                "tokens": int((mask == 0).sum()),
                "chosen_delta": chosen,
                "rejected_delta": rejected,
                "movement": str(movement_names(np.array([chosen]), np.array([rejected]))[0]),
            }
        )
    return found


def role_products(gram_NN: Floats, num_chosen: int, roles: Sequence[Role]) -> list[dict[str, Any]]:
    """The inner product of the two answers' gradients by the roles of the tokens that meet; the parts add up to it."""
    found = []
    for left in Role:
        for right in Role:
            rows = [place for place, role in enumerate(roles[:num_chosen]) if role is left]
            columns = [place for place, role in enumerate(roles) if role is right and place >= num_chosen]
            block = gram_NN[np.ix_(rows, columns)]
            if block.size:
                found.append(
                    {
                        "chosen": left.value,
                        "rejected": right.value,
                        "inner_product": float(block.sum()),
                        "of": block.size,
                    }
                )
    return found


def cosines(gram_NN: Floats) -> Floats:
    """The Gram as cosines, [n, n]; NaN where a token has no gradient."""
    norms = np.sqrt(np.diagonal(gram_NN))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = gram_NN / np.outer(norms, norms)
    return np.clip(found, -1.0, 1.0)
