"""Products of the unembedding's gradient, from the grams of a vocabulary sweep.

With q_t the gradient at position t's logits and h_t its hidden state, the weight's gradient is sum_t q_t h_t' and its
products are sum_{t,u} (q_t . q_u) (h_t . h_u); the bias's are sum_{t,u} q_t . q_u.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entangle_cli.engine.device_products import wide_product
from entangle_cli.engine.head_grams import PairGrams, PairGroup
from entangle_cli.engine.head_sweep import HeadPass
from entangle_cli.engine.products import chosen_and_rejected
from entangle_cli.engine.scored import Scored
from entangle_cli.engine.unembedding import Unembedding

BLOCK_BYTES = 64 * 2**20
"""Bytes of one block of a gram in float32. Bounds the memory for long responses."""


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """The head's results at the scored positions of some rows, padded to R.

    Padding has a residual of 0 and an infinite normaliser. Its gradient at the logits is therefore 0.
    """

    hidden_PRD: Tensor
    targets_PR: Tensor
    residuals_PR: Tensor
    maxima_PR: Tensor
    normalisers_PR: Tensor

    def blocks(self, num_columns: int) -> Iterator[tuple[slice, ScoredRows]]:
        """Blocks of positions, as many as `BLOCK_BYTES` holds of a gram with `num_columns`."""
        num_rows, num_positions = self.targets_PR.shape
        height = max(1, BLOCK_BYTES // (4 * num_rows * num_columns))
        if height >= num_positions:
            yield slice(0, num_positions), self
            return
        for start in range(0, num_positions, height):
            block = slice(start, start + height)
            yield (
                block,
                ScoredRows(
                    self.hidden_PRD[:, block],
                    self.targets_PR[:, block],
                    self.residuals_PR[:, block],
                    self.maxima_PR[:, block],
                    self.normalisers_PR[:, block],
                ),
            )


def scored_rows(head_pass: HeadPass, positions_PR: Tensor) -> ScoredRows:
    """The head's results at some positions.

    Args:
        positions_PR: indices into N; -1 on padding.
    """
    is_padding_PR = positions_PR < 0
    filled_PR = positions_PR.clamp(min=0)
    return ScoredRows(
        head_pass.hidden_ND[filled_PR],
        head_pass.targets_N[filled_PR],
        head_pass.target_residuals_N[filled_PR].masked_fill(is_padding_PR, 0.0),
        head_pass.maxima_N[filled_PR],
        head_pass.normalisers_N[filled_PR].masked_fill(is_padding_PR, torch.inf),
    )


def head_products(head_pass: HeadPass, head: Unembedding, grams: Sequence[PairGrams]) -> tuple[Tensor, Tensor]:
    """Products [3, P] of the weight and of the bias.

    Args:
        grams: the grams from `sweep_vocabulary`.
    Precision: grams in float32 (float64 for float64 models), sums over their rows in float64.
    Cost: about 14 R^2 D flops per pair; memory of a few `BLOCK_BYTES`.
    """
    weight, bias = torch.cat([_group_products(head_pass, head, group) for group in grams], dim=2)
    return weight, bias


def _group_products(head_pass: HeadPass, head: Unembedding, grams: PairGrams) -> Tensor:
    """Products of the weight and of the bias, [2, 3, P]."""
    chosen, rejected = (
        scored_rows(head_pass, positions_PR) for positions_PR in (grams.group.chosen_PR, grams.group.rejected_PR)
    )
    sides = [
        (chosen, chosen, grams.chosen_PRR),
        (rejected, rejected, grams.rejected_PRR),
        (chosen, rejected, grams.mixed_PRR),
    ]
    return torch.stack([_inner_products(head, *side) for side in sides], dim=1)


def _inner_products(head: Unembedding, left: ScoredRows, right: ScoredRows, gram_PRR: Tensor) -> Tensor:
    """Inner products between the gradients of two rows, of the weight and of the bias, [2, P]."""
    totals = []
    for block, some in left.blocks(right.targets_PR.shape[1]):
        residual_gram = _residual_gram(head, some, right, gram_PRR[:, block])
        input_gram = wide_product(some.hidden_PRD, right.hidden_PRD.mT)
        sums = torch.stack([(residual_gram * input_gram).sum(-1), residual_gram.sum(-1)])
        totals.append(sums.sum(-1, dtype=torch.float64))
    return torch.stack(totals).sum(0)


def _residual_gram(head: Unembedding, left: ScoredRows, right: ScoredRows, gram_PRR: Tensor) -> Tensor:
    """q_t . q_u over the vocabulary for t in `left`, u in `right`, from the sweep's gram of exponentials.

    q = r e_y - o with o the other probabilities (zero at y), so
    q_t . q_u = r_t r_u [y_t = y_u] - r_t o_u[y_t] - r_u o_t[y_u] + o_t . o_u.
    """
    left_at_right = other_probabilities(head, left, right.targets_PR)
    right_at_left = left_at_right if left is right else other_probabilities(head, right, left.targets_PR)
    same_target = left.targets_PR.unsqueeze(2) == right.targets_PR.unsqueeze(1)
    left_residual, right_residual = left.residuals_PR.unsqueeze(2), right.residuals_PR.unsqueeze(1)
    normalisers = left.normalisers_PR.unsqueeze(2) * right.normalisers_PR.unsqueeze(1)
    return (
        left_residual * (right_residual * same_target - right_at_left.mT)
        - right_residual * left_at_right
        + gram_PRR / normalisers
    )


def other_probabilities(head: Unembedding, rows: ScoredRows, ids_PC: Tensor) -> Tensor:
    """Softmax at some columns times the logits' slope; zero at the position's own target.

    Returns:
        [P, R, C].
    """
    logits = head.logits_at(rows.hidden_PRD, ids_PC)
    probabilities = (logits - rows.maxima_PR.unsqueeze(2)).exp_() / rows.normalisers_PR.unsqueeze(2)
    slope = head.slope(logits)
    if not isinstance(slope, float) or slope != 1.0:
        probabilities *= slope
    return probabilities.masked_fill_(rows.targets_PR.unsqueeze(2) == ids_PC.unsqueeze(1), 0.0)


def tied_cross_products(
    head_pass: HeadPass, head: Unembedding, groups: Sequence[PairGroup], ids_BT: Tensor, gradient_BTD: Tensor
) -> Tensor:
    """Cross terms [3, P] between the two uses of a weight that is both embedding and unembedding.

    Row a looks up ids with gradient e_at. Row b unembeds hidden states h_bs with residuals q_bs.
    <lookup_a, head_b> = sum_{t,s} q_bs[id_at] (e_at . h_bs). A squared norm contains it twice, the inner product once
    in each direction.
    """
    num_pairs = len(ids_BT) // 2
    columns = []
    for group in groups:
        chosen, rejected = (
            scored_rows(head_pass, positions_PR) for positions_PR in (group.chosen_PR, group.rejected_PR)
        )
        of_chosen, of_rejected = (
            (ids_BT[rows], gradient_BTD[rows])
            for rows in (group.pairs, slice(num_pairs + group.pairs.start, num_pairs + group.pairs.stop))
        )
        columns.append(
            torch.stack(
                [
                    2 * _lookup_with_head(head, chosen, *of_chosen),
                    2 * _lookup_with_head(head, rejected, *of_rejected),
                    _lookup_with_head(head, rejected, *of_chosen) + _lookup_with_head(head, chosen, *of_rejected),
                ]
            )
        )
    return torch.cat(columns, dim=1)


def _lookup_with_head(head: Unembedding, rows: ScoredRows, ids_PT: Tensor, gradient_PTD: Tensor) -> Tensor:
    """Inner products between the lookups of some rows and the head's use in others, [P]."""
    totals = []
    for _, some in rows.blocks(ids_PT.shape[1]):
        is_target = some.targets_PR.unsqueeze(2) == ids_PT.unsqueeze(1)
        residual_PRT = some.residuals_PR.unsqueeze(2) * is_target - other_probabilities(head, some, ids_PT)
        inner_PRT = wide_product(some.hidden_PRD, gradient_PTD.mT)
        totals.append((residual_PRT * inner_PRT).sum(-1).sum(-1, dtype=torch.float64))
    return torch.stack(totals).sum(0)


def hidden_similarities(hidden_ND: Tensor, scored: Scored) -> Tensor:
    """CHES and its length-normalised form of every pair, float64 [2, P] (Razin et al., arXiv 2410.08847, Definition 2).

    CHES = <S_c, S_r> - |S_c|^2, where S is the sum of the hidden states that predict a response's tokens. In the
    normalised form S is their mean. CHES is the head's P - A with every residual q replaced by 1.
    """
    sums_BD = scored.row_sums(hidden_ND)
    lengths_B1 = (scored.index_BR >= 0).sum(1, keepdim=True)
    similarities = []
    for states_BD in (sums_BD, sums_BD / lengths_B1):
        chosen_PD, rejected_PD = chosen_and_rejected(states_BD)
        similarities.append((chosen_PD * (rejected_PD - chosen_PD)).sum(1))
    return torch.stack(similarities)
