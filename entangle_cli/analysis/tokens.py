"""Evaluates the token Gram matrix of a pair: the effect of every token, the token roles, and the effect of masks.

Let M be the Gram matrix of the token gradients, and d_c and d_r the loss coefficients. One small step changes the
log-prob of token t of the chosen answer by (d_c M_cc 1 - d_r M_cr 1)_t, and of token s of the rejected answer by
(d_c M_rc 1 - d_r M_rr 1)_s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import numpy as np

from entangle_cli.analysis.movement import movement_names
from entangle_cli.analysis.token_sums import Role, TokenSums
from entangle_cli.records.arrays import Floats


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
    """Change of every token's log-prob, [N], chosen first."""
    by_tokens_2N: Floats
    """Change of the chosen and the rejected answer's log-prob by every token's own part of the step, [2, N]."""

    def total(self, num_chosen: int) -> tuple[float, float]:
        """Changes of both answers' log-probs."""
        return float(self.tokens_N[:num_chosen].sum()), float(self.tokens_N[num_chosen:].sum())


def pushes(sums: TokenSums, coefficients: tuple[float, float], masked: Role | None = None) -> Pushes:
    """The effect of a step in which the loss ignores the tokens of one role.

    Args:
        coefficients: d_c and d_r of the loss.
        masked: the role; None for no mask. Changes are for all tokens, including masked ones.
    """
    weights_G = np.array([sign * (role is not masked) for sign in (coefficients[0], -coefficients[1]) for role in Role])
    by_answer = sums.by_group_NG[:, : len(Role)].sum(1), sums.by_group_NG[:, len(Role) :].sum(1)
    weights_N = np.array(
        [
            (coefficients[0] if token < sums.num_chosen else -coefficients[1]) * (role is not masked)
            for token, role in enumerate(sums.roles)
        ]
    )
    return Pushes(sums.by_group_NG @ weights_G, np.stack(by_answer) * weights_N)


def masked_roles(sums: TokenSums, coefficients_of: Callable[[Floats], tuple[float, float]]) -> list[dict[str, Any]]:
    """The movement of the answers if the loss ignores the tokens of one role. The first case masks nothing.

    Args:
        coefficients_of: returns d_c and d_r for a mask [N]. Log-probs and lengths are those of the unmasked tokens.
    Returns:
        One mapping per case: `masked` (a role or None), number of masked `tokens`, changes of both answers, movement.
    """
    masks: list[Role | None] = [None, *(role for role in Role if role in sums.roles)]
    cases = []
    for masked in masks:
        mask_N = np.array([0.0 if role is masked else 1.0 for role in sums.roles])
        chosen, rejected = pushes(sums, coefficients_of(mask_N), masked).total(sums.num_chosen)
        cases.append(
            {
                "masked": None if masked is None else masked.value,
                "tokens": int((mask_N == 0).sum()),
                "chosen_delta": chosen,
                "rejected_delta": rejected,
                "movement": str(movement_names(np.array([chosen]), np.array([rejected]))[0]),
            }
        )
    return cases


def role_products(sums: TokenSums) -> list[dict[str, Any]]:
    """The inner product of the two answers' gradients, split by the roles of both tokens. The parts add up to it."""
    chosen, rejected = sums.roles[: sums.num_chosen], sums.roles[sums.num_chosen :]
    parts = []
    for left in Role:
        rows = [token for token, role in enumerate(chosen) if role is left]
        for right in Role:
            if count := len(rows) * rejected.count(right):
                column = sums.by_group_NG[rows, sums.group(right, is_rejected=True)]
                part = {"chosen": left.value, "rejected": right.value, "inner_product": float(column.sum())}
                parts.append({**part, "of": count})
    return parts


def cosines(gram_NN: Floats) -> Floats:
    """The Gram matrix as cosines, [N, N]; NaN if a token has no gradient."""
    norms = np.sqrt(np.diagonal(gram_NN))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: Floats = gram_NN / np.outer(norms, norms)
    return np.clip(ratios, -1.0, 1.0)


LARGE_PART = 0.8


def concentration(sums: TokenSums) -> dict[str, Any] | None:
    """The fewest pairs of tokens, chosen x rejected, whose inner products make up most of the answers' inner product.

    Returns:
        `token_pairs`, `of` all of them, and their `share` of the inner product, at least `LARGE_PART`. None where the
        inner product is not positive, or where more token pairs are needed than `TokenSums` keeps.
    """
    total = float(sums.by_group_NG[: sums.num_chosen, len(Role) :].sum())
    running = np.cumsum(sums.largest)
    if not total > 0 or not len(running) or running.max() < LARGE_PART * total:
        return None
    enough = int(np.argmax(running >= LARGE_PART * total))
    return {"token_pairs": enough + 1, "of": sums.num_products, "share": float(running[enough]) / total}
