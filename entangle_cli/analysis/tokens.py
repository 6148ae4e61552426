"""Evaluates the token Gram matrix of a pair: the effect of every token, the token roles, and the effect of masks.

Let M be the Gram matrix of the token gradients, and d_c and d_r the loss coefficients. One small step changes the
log-prob of token t of the chosen answer by (d_c M_cc 1 - d_r M_cr 1)_t, and of token s of the rejected answer by
(d_c M_rc 1 - d_r M_rr 1)_s.
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
    """Relation of a token to the other answer."""

    PREFIX = "prefix"
    """Part of the common start of both answers."""
    CONTRASTIVE = "contrastive"
    """Replaces other tokens of the other answer."""
    SHARED = "shared"
    """After the first difference, in both answers."""
    REST = "rest"
    """In one answer only, without a counterpart in the other."""


def token_roles(chosen: Sequence[int], rejected: Sequence[int]) -> tuple[list[Role], list[Role]]:
    """Roles of all tokens of both answers, from an alignment (Ratcliff and Obershelp, as in difflib)."""
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
    """Effect of a step on tokens and answers, in nats per unit learning rate."""

    tokens_N: Floats
    """Change of every token's log-prob, [n], chosen first."""
    by_tokens_2N: Floats
    """Change of the chosen and the rejected answer's log-prob by every token's own part of the step, [2, n]."""

    def total(self, num_chosen: int) -> tuple[float, float]:
        """Changes of both answers' log-probs."""
        return float(self.tokens_N[:num_chosen].sum()), float(self.tokens_N[num_chosen:].sum())


def pushes(gram_NN: Floats, num_chosen: int, coefficients: tuple[float, float], mask_N: Floats | None = None) -> Pushes:
    """The effect of a step with masked tokens.

    Args:
        gram_NN: inner products of the token gradients, chosen first.
        coefficients: d_c and d_r of the loss.
        mask_N: weight of every token in the loss, [n]; None for 1. Changes are for all tokens, including masked ones.
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
    """The movement of the answers if the loss ignores the tokens of one role. The first case masks nothing.

    Args:
        coefficients_of: returns d_c and d_r for a mask [n]. Log-probs and lengths are those of the unmasked tokens.
    Returns:
        One mapping per case: `masked` (a role or None), number of masked `tokens`, changes of both answers, movement.
    """
    masks: list[Role | None] = [None, *(role for role in Role if role in roles)]
    cases = []
    for masked in masks:
        mask = np.array([0.0 if role is masked else 1.0 for role in roles])
        chosen, rejected = pushes(gram_NN, num_chosen, coefficients_of(mask), mask).total(num_chosen)
        cases.append(
            {
                "masked": None if masked is None else masked.value,
                "tokens": int((mask == 0).sum()),
                "chosen_delta": chosen,
                "rejected_delta": rejected,
                "movement": str(movement_names(np.array([chosen]), np.array([rejected]))[0]),
            }
        )
    return cases


def role_products(gram_NN: Floats, num_chosen: int, roles: Sequence[Role]) -> list[dict[str, Any]]:
    """The inner product of the two answers' gradients, split by the roles of both tokens. The parts add up to it."""
    parts = []
    for left in Role:
        for right in Role:
            rows = [number for number, role in enumerate(roles[:num_chosen]) if role is left]
            columns = [number for number, role in enumerate(roles) if role is right and number >= num_chosen]
            block = gram_NN[np.ix_(rows, columns)]
            if block.size:
                parts.append(
                    {
                        "chosen": left.value,
                        "rejected": right.value,
                        "inner_product": float(block.sum()),
                        "of": block.size,
                    }
                )
    return parts


def cosines(gram_NN: Floats) -> Floats:
    """The Gram matrix as cosines, [n, n]; NaN if a token has no gradient."""
    norms = np.sqrt(np.diagonal(gram_NN))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: Floats = gram_NN / np.outer(norms, norms)
    return np.clip(ratios, -1.0, 1.0)
