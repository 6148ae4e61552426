"""Products of the unembedding's gradient, from the grams of a vocabulary sweep.

With q_t the gradient at position t's logits and h_t its hidden state, the weight's gradient is sum_t q_t h_t' and its
products are sum_{t,u} (q_t . q_u) (h_t . h_u); the bias's are sum_{t,u} q_t . q_u.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from entangle_cli.engine.head_grams import PairGrams, chosen_and_rejected_slices
from entangle_cli.engine.head_sweep import HeadPass
from entangle_cli.engine.products import at_least_float32
from entangle_cli.engine.unembedding import Unembedding

PRODUCT_BLOCK = 512
"""Rows of a gram that are processed at a time. Bounds the memory for long responses."""


def head_products(
    head_pass: HeadPass, head: Unembedding, slices: Sequence[slice], grams: Sequence[PairGrams]
) -> tuple[Tensor, Tensor]:
    """Products [3, P] of the weight and of the bias.

    Args:
        slices: per row (chosen rows first), its range within N.
        grams: the grams of each pair from `sweep_vocabulary`.
    Precision: grams in float32 (float64 for float64 models), sums over their rows in float64.
    Cost: about 6 R^2 D flops per pair; memory of `PRODUCT_BLOCK` * R.
    """
    totals = []
    for (chosen, rejected), pair in zip(chosen_and_rejected_slices(slices), grams, strict=True):
        totals += [
            _symmetric_products(head_pass, head, chosen, pair.chosen_RR),
            _symmetric_products(head_pass, head, rejected, pair.rejected_RR),
            _mixed_products(head_pass, head, chosen, rejected, pair.mixed_RR),
        ]
    weight, bias = torch.stack(totals).reshape(len(grams), 3, 2).permute(2, 1, 0)
    return weight, bias


def _symmetric_products(head_pass: HeadPass, head: Unembedding, rows: slice, upper_RR: Tensor) -> Tensor:
    """Squared norms of the weight's and the bias's gradient, [2], from the upper half of a row's gram."""
    total = upper_RR.new_zeros(2, dtype=torch.float64)
    for start, stop in _product_blocks(rows):
        block = slice(rows.start + start, rows.start + stop)
        below = slice(rows.start + stop, rows.stop)
        square_rr = upper_RR[start:stop, start:stop]
        mirrored_rr = square_rr.triu() + square_rr.triu(1).T
        total += _block_products(head_pass, head, block, block, mirrored_rr)
        total += 2 * _block_products(head_pass, head, block, below, upper_RR[start:stop, stop:])
    return total


def _mixed_products(head_pass: HeadPass, head: Unembedding, left: slice, right: slice, mixed_RR: Tensor) -> Tensor:
    """Inner products of the weight's and the bias's gradients of two rows, [2]."""
    total = mixed_RR.new_zeros(2, dtype=torch.float64)
    for start, stop in _product_blocks(left):
        block = slice(left.start + start, left.start + stop)
        total += _block_products(head_pass, head, block, right, mixed_RR[start:stop])
    return total


def _product_blocks(rows: slice) -> list[tuple[int, int]]:
    length = rows.stop - rows.start
    return [(start, min(start + PRODUCT_BLOCK, length)) for start in range(0, length, PRODUCT_BLOCK)]


def _block_products(head_pass: HeadPass, head: Unembedding, left: slice, right: slice, gram_rR: Tensor) -> Tensor:
    residual_gram_rR = _residual_gram(head_pass, head, left, right, gram_rR)
    hidden_ND = head_pass.hidden_ND
    input_gram_rR = at_least_float32(hidden_ND[left]) @ at_least_float32(hidden_ND[right]).T
    bias = residual_gram_rR.sum(-1).sum(dtype=torch.float64)
    return torch.stack([(residual_gram_rR * input_gram_rR).sum(-1).sum(dtype=torch.float64), bias])


def _residual_gram(head_pass: HeadPass, head: Unembedding, left: slice, right: slice, gram_rR: Tensor) -> Tensor:
    """q_t . q_u over the vocabulary for t in `left`, u in `right`, from the sweep's gram of exponentials.

    q = r e_y - o with o the other probabilities (zero at y), so
    q_t . q_u = r_t r_u [y_t = y_u] - r_t o_u[y_t] - r_u o_t[y_u] + o_t . o_u.
    """
    targets_N, residuals_N = head_pass.targets_N, head_pass.target_residuals_N
    same_target = targets_N[left].unsqueeze(1) == targets_N[right].unsqueeze(0)
    left_at_right = other_probabilities(head_pass, head, left, targets_N[right])
    right_at_left = other_probabilities(head_pass, head, right, targets_N[left]).T
    left_residual, right_residual = residuals_N[left].unsqueeze(1), residuals_N[right].unsqueeze(0)
    normalisers = torch.outer(head_pass.normalisers_N[left], head_pass.normalisers_N[right])
    return (
        left_residual * right_residual * same_target
        - left_residual * right_at_left
        - right_residual * left_at_right
        + gram_rR / normalisers
    )


def other_probabilities(head_pass: HeadPass, head: Unembedding, rows: slice, ids: Tensor) -> Tensor:
    """Softmax at some columns times the logits' slope; zero at the position's own target.

    Returns:
        [R, len(ids)] for the scored positions in `rows`.
    """
    logits = head.logits(head_pass.hidden_ND[rows], ids)
    shifted = logits - head_pass.maxima_N[rows].unsqueeze(1)
    probabilities = shifted.exp() / head_pass.normalisers_N[rows].unsqueeze(1) * head.slope(logits)
    return probabilities.masked_fill(head_pass.targets_N[rows].unsqueeze(1) == ids.unsqueeze(0), 0.0)


def tied_cross_products(
    head_pass: HeadPass, head: Unembedding, slices: Sequence[slice], ids_BT: Tensor, gradient_BTD: Tensor
) -> Tensor:
    """Cross terms [3, P] between the two uses of a weight that is both embedding and unembedding.

    Row a looks up ids with gradient e_at. Row b unembeds hidden states h_bs with residuals q_bs.
    <lookup_a, head_b> = sum_{t,s} q_bs[id_at] (e_at . h_bs). A squared norm contains it twice, the inner product once
    in each direction.
    """
    num_pairs = len(slices) // 2
    hidden_ND = at_least_float32(head_pass.hidden_ND)
    gradient_BTD = at_least_float32(gradient_BTD)

    def cross(lookup_row: int, head_row: int) -> Tensor:
        rows, ids_T = slices[head_row], ids_BT[lookup_row]
        at_target = head_pass.target_residuals_N[rows].unsqueeze(1) * (
            head_pass.targets_N[rows].unsqueeze(1) == ids_T.unsqueeze(0)
        )
        residual_RT = at_target - other_probabilities(head_pass, head, rows, ids_T)
        inner_RT = hidden_ND[rows] @ gradient_BTD[lookup_row].T
        return (residual_RT * inner_RT).sum(-1).sum(dtype=torch.float64)

    columns = [
        torch.stack(
            [
                2 * cross(pair, pair),
                2 * cross(pair + num_pairs, pair + num_pairs),
                cross(pair, pair + num_pairs) + cross(pair + num_pairs, pair),
            ]
        )
        for pair in range(num_pairs)
    ]
    return torch.stack(columns, dim=1)


def hidden_similarities(hidden_ND: Tensor, slices: Sequence[slice]) -> Tensor:
    """CHES and its length-normalised form of every pair, float64 [2, P] (Razin et al., arXiv 2410.08847, Definition 2).

    CHES = <S_c, S_r> - |S_c|^2, where S is the sum of the hidden states that predict a response's tokens. In the
    normalised form S is their mean. CHES is the head's P - A with every residual q replaced by 1.
    """
    sums_BD = torch.stack([hidden_ND[rows].double().sum(0) for rows in slices])
    lengths_B = torch.tensor([rows.stop - rows.start for rows in slices], device=sums_BD.device, dtype=sums_BD.dtype)
    similarities = []
    for states_BD in (sums_BD, sums_BD / lengths_B.unsqueeze(1)):
        chosen_PD, rejected_PD = states_BD[: len(slices) // 2], states_BD[len(slices) // 2 :]
        similarities.append((chosen_PD * (rejected_PD - chosen_PD)).sum(1))
    return torch.stack(similarities)
