"""Sums over the token Gram matrix of a pair, gathered block by block, without the matrix itself.

Every number of a pair's tokens is linear in the Gram matrix M: with w a weight per token, one step changes the tokens'
log-probs by M w. Weights depend on a token's answer and role only. M summed over the columns of each answer and role
therefore gives every push and every mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from entangle_cli.records.arrays import Floats

SHOWN_TOKENS = 40
"""Of each answer, whose cosines are kept for a terminal."""

LARGEST = 65_536
"""Inner products of two tokens that are kept, largest first."""


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


class TokenSums:
    """Sums of a token Gram matrix by answer and role.

    Args:
        num_chosen: scored tokens of the chosen answer.
        roles: of all scored tokens, chosen first.

    Attributes:
        by_group_NG: [N, 2 * roles], M summed over the columns of each answer and role; see `group`.
        diagonal_N: squared gradient norms of the tokens.
        shown_SS: inner products of the first `SHOWN_TOKENS` of the chosen answer with those of the rejected one.
        largest: the largest inner products of a chosen and a rejected token, in descending order.
        num_products: how many there are in all.
    """

    def __init__(self, num_chosen: int, roles: Sequence[Role]) -> None:
        self.num_chosen = num_chosen
        self.roles = list(roles)
        number_of = {role: number for number, role in enumerate(Role)}
        self._group_N = np.array(
            [number_of[role] + len(Role) * (token >= num_chosen) for token, role in enumerate(self.roles)], dtype=int
        )
        count, num_rejected = len(self.roles), len(self.roles) - num_chosen
        self.by_group_NG: Floats = np.zeros((count, 2 * len(Role)))
        self.diagonal_N: Floats = np.zeros(count)
        self.shown_SS: Floats = np.zeros((min(SHOWN_TOKENS, num_chosen), min(SHOWN_TOKENS, num_rejected)))
        self.largest: Floats = np.zeros(0)
        self.num_products = num_chosen * num_rejected

    @staticmethod
    def group(role: Role, *, is_rejected: bool) -> int:
        """The column of `by_group_NG` of an answer's tokens of one role."""
        return list(Role).index(role) + len(Role) * is_rejected

    def add(self, rows: Sequence[int], columns: Sequence[int], gram: Floats) -> None:
        """Add a block of the matrix, [rows, columns]; one off the diagonal counts for its mirror image too."""
        row_tokens, column_tokens = np.asarray(rows), np.asarray(columns)
        self._add_sums(row_tokens, column_tokens, gram)
        self._add_products(row_tokens, column_tokens, gram)
        if rows is columns or list(rows) == list(columns):
            self.diagonal_N[row_tokens] = np.diagonal(gram)
        else:
            self._add_sums(column_tokens, row_tokens, gram.T)
            self._add_products(column_tokens, row_tokens, gram.T)

    def _add_sums(self, rows: Floats, columns: Floats, gram: Floats) -> None:
        members = np.eye(self.by_group_NG.shape[1])[self._group_N[columns]]
        self.by_group_NG[rows] += gram @ members

    def _add_products(self, rows: Floats, columns: Floats, gram: Floats) -> None:
        """Take note of the products of chosen rows with rejected columns."""
        chosen, rejected = np.flatnonzero(rows < self.num_chosen), np.flatnonzero(columns >= self.num_chosen)
        if not (len(chosen) and len(rejected)):
            return
        block = gram[np.ix_(chosen, rejected)]
        self.largest = np.sort(np.concatenate([self.largest, block.ravel()]))[::-1][:LARGEST]
        down, across = rows[chosen], columns[rejected] - self.num_chosen
        kept_down, kept_across = down < self.shown_SS.shape[0], across < self.shown_SS.shape[1]
        self.shown_SS[np.ix_(down[kept_down], across[kept_across])] = block[np.ix_(kept_down, kept_across)]

    @property
    def shown_cosines(self) -> Floats:
        """`shown_SS` as cosines; NaN if a token has no gradient."""
        norms = np.sqrt(self.diagonal_N)
        down = norms[: self.shown_SS.shape[0]]
        across = norms[self.num_chosen : self.num_chosen + self.shown_SS.shape[1]]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios: Floats = self.shown_SS / np.outer(down, across)
        return np.clip(ratios, -1.0, 1.0)
