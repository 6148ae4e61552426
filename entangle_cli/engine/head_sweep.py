"""A sweep over the vocabulary: log-probs, their gradients at the hidden states, and grams for the head's products.

Logits are computed one vocabulary chunk at a time and never kept, like the keys in flash attention. Sums that depend on
the normaliser are relative to a running maximum and rescaled when it rises.

With p the softmax at a position, y its target and r = 1 - p_y, the gradient of log p_y with respect to the logits is
r e_y - sum_{v != y} p_v e_v. The two terms are kept separate, and r is the sum of the other probabilities. This keeps
full precision at confident positions (p_y near 1). There, one-hot minus softmax would cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entangle_cli.engine.head_grams import HeadGrams, PairGrams, start_grams
from entangle_cli.engine.products import at_least_float32
from entangle_cli.engine.scored import Scored
from entangle_cli.engine.unembedding import Unembedding

CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 512 * 2**20}
"""Bytes of one float32 chunk of logits. Below 32 MiB the C library reuses heap memory instead of requesting new pages.
This saves 5 % of the time of a GPT-2 batch at 64 tokens. A GPU is faster with a few large products."""


@dataclass(frozen=True, slots=True)
class HeadPass:
    """Results of the vocabulary sweep of a batch."""

    hidden_ND: Tensor
    """The head's inputs at the scored positions, detached."""
    log_probs_N: Tensor
    """float64, nats."""
    seed_ND: Tensor
    """Gradient of each position's log-prob with respect to its hidden state, in the hidden state's dtype."""
    targets_N: Tensor
    maxima_N: Tensor
    normalisers_N: Tensor
    """Sum over the vocabulary of exp(logit - maximum)."""
    target_residuals_N: Tensor
    """Gradient at the target's raw logit: (1 - p_y) times the slope."""


@dataclass(slots=True)
class _Sweep:
    """Running sums over the vocabulary, all relative to the running maxima."""

    maxima_N: Tensor
    target_logits_N: Tensor
    others_N: Tensor
    """Sum of exp over all columns except the target."""
    pull_ND: Tensor
    """Sum of exp times slope times unembedding row, over all columns except the target."""
    grams: HeadGrams

    def raise_maxima(self, maxima_N: Tensor) -> None:
        """Rescale every sum to higher maxima."""
        factor_N = torch.exp(self.maxima_N - maxima_N)
        self.others_N *= factor_N
        self.pull_ND *= factor_N.unsqueeze(1)
        self.grams.rescale(factor_N)
        self.maxima_N = maxima_N


def sweep_vocabulary(
    head: Unembedding, hidden_ND: Tensor, targets_N: Tensor, scored: Scored, *, with_grams: bool
) -> tuple[HeadPass, Sequence[PairGrams]]:
    """Log-probs of the targets, their gradient at the hidden states, and the grams of each pair.

    Args:
        hidden_ND: inputs of the head at the scored positions, detached.
        scored: the rows of the scored positions.
        with_grams: whether to compute grams. Only the products of the head's weight and bias need them.
    Precision: sums over the vocabulary in float32 (float64 for float64 models), log-probs in float64.
    Cost: 4 N V D flops, and about 6 R^2 V per pair with grams; memory of a few `CHUNK_BYTES` plus R^2.
    """
    sweep = _start(hidden_ND, scored if with_grams else None)
    vocabulary = head.weight_VD.shape[0]
    chunk = _chunk_columns(hidden_ND)
    for start in range(0, vocabulary, chunk):
        _add_columns(sweep, head, hidden_ND, targets_N, slice(start, min(start + chunk, vocabulary)))
    target_exp_N = torch.exp(sweep.target_logits_N - sweep.maxima_N)
    normalisers_N = sweep.others_N + target_exp_N
    target_residuals_N = sweep.others_N / normalisers_N * head.slope(sweep.target_logits_N)
    seed_ND = target_residuals_N.unsqueeze(1) * head.weight_VD[targets_N]
    seed_ND -= sweep.pull_ND / normalisers_N.unsqueeze(1)
    head_pass = HeadPass(
        hidden_ND=hidden_ND,
        log_probs_N=_target_log_probs(sweep.target_logits_N, sweep.maxima_N, sweep.others_N),
        seed_ND=seed_ND.to(hidden_ND.dtype),
        targets_N=targets_N,
        maxima_N=sweep.maxima_N,
        normalisers_N=normalisers_N,
        target_residuals_N=target_residuals_N,
    )
    return head_pass, sweep.grams.finished()


def sweep_log_probs(head: Unembedding, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Only the log-probs of the targets, float64 [N], nats, with the method of `sweep_vocabulary`.

    Cost: 2 N V D flops, memory of two `CHUNK_BYTES`.
    """
    values = at_least_float32(hidden_ND)
    maxima_N = values.new_full((values.shape[0],), -torch.inf)
    others_N, target_logits_N = values.new_zeros(values.shape[0]), values.new_zeros(values.shape[0])
    vocabulary = head.weight_VD.shape[0]
    chunk = _chunk_columns(values)
    for start in range(0, vocabulary, chunk):
        logits_NC = head.logits(hidden_ND, slice(start, min(start + chunk, vocabulary)))
        raised_N = torch.maximum(maxima_N, logits_NC.amax(1))
        others_N *= torch.exp(maxima_N - raised_N)
        maxima_N = raised_N
        local_N1, inside_N1 = _local_targets(targets_N, start, logits_NC.shape[1])
        at_target_N1 = logits_NC.gather(1, local_N1)
        target_logits_N = torch.where(inside_N1, at_target_N1, target_logits_N.unsqueeze(1)).squeeze(1)
        exp_NC = _exp_below(logits_NC, maxima_N)
        exp_NC.scatter_(1, local_N1, exp_NC.gather(1, local_N1).masked_fill_(inside_N1, 0.0))
        others_N += exp_NC.sum(1)
    return _target_log_probs(target_logits_N, maxima_N, others_N)


def weighted_backward(head: Unembedding, hidden_ND: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    """Backward pass of sum_n weight_n log p(target_n) through the head, a few positions at a time.

    The head's parameters accumulate gradients if they require them.

    Returns:
        The gradient at the hidden states, [N, D].
    """
    seeds = []
    height = max(1, _chunk_columns(hidden_ND) * hidden_ND.shape[0] // head.weight_VD.shape[0])
    for rows in torch.arange(hidden_ND.shape[0], device=hidden_ND.device).split(height):
        hidden_nD = hidden_ND[rows].requires_grad_()
        log_probs_nV = head.logits(hidden_nD, slice(None)).log_softmax(-1)
        log_probs_n = log_probs_nV.gather(1, targets_N[rows].unsqueeze(1)).squeeze(1)
        (weights_N[rows].to(log_probs_n.dtype) * log_probs_n).sum().backward()
        assert hidden_nD.grad is not None
        seeds.append(hidden_nD.grad)
    return torch.cat(seeds)


def _exp_below(logits_NC: Tensor, maxima_N: Tensor) -> Tensor:
    """exp(logit - maximum) in the dtype of the maxima. Overwrites the logits if they have it."""
    in_place = logits_NC if logits_NC.dtype == maxima_N.dtype else None
    return torch.sub(logits_NC, maxima_N.unsqueeze(1), out=in_place).exp_()


def _target_log_probs(target_logits_N: Tensor, maxima_N: Tensor, others_N: Tensor) -> Tensor:
    shifted_N = (target_logits_N - maxima_N).double()
    # float32 would round 1 + 1e-8 to 1. For a confident position its logarithm is the whole log-prob.
    return shifted_N - (others_N.double() + shifted_N.exp()).log()


def _local_targets(targets_N: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Column of each target within a chunk, and whether the chunk contains it, both [N, 1]."""
    local_N1 = (targets_N - start).unsqueeze(1)
    return local_N1.clamp(0, width - 1), (local_N1 >= 0) & (local_N1 < width)


def _chunk_columns(hidden_ND: Tensor) -> int:
    """Number of vocabulary columns to compute at a time."""
    chunk_bytes = CHUNK_BYTES.get(hidden_ND.device.type, CHUNK_BYTES["cuda"])
    return max(1, chunk_bytes // (4 * max(1, hidden_ND.shape[0])))


def _start(hidden_ND: Tensor, scored: Scored | None) -> _Sweep:
    values = at_least_float32(hidden_ND)
    num_positions = values.shape[0]
    return _Sweep(
        maxima_N=values.new_full((num_positions,), -torch.inf),
        target_logits_N=values.new_zeros(num_positions),
        others_N=values.new_zeros(num_positions),
        pull_ND=torch.zeros_like(values),
        grams=start_grams(values, scored),
    )


def _add_columns(
    sweep: _Sweep,
    head: Unembedding,
    hidden_ND: Tensor,
    targets_N: Tensor,
    columns: slice,
) -> None:
    logits_NC = head.logits(hidden_ND, columns)
    sweep.raise_maxima(torch.maximum(sweep.maxima_N, logits_NC.amax(1)))
    local_N1, inside_N1 = _local_targets(targets_N, columns.start, logits_NC.shape[1])
    at_target_N1 = logits_NC.gather(1, local_N1)
    sweep.target_logits_N = torch.where(inside_N1, at_target_N1, sweep.target_logits_N.unsqueeze(1)).squeeze(1)
    slope_NC = head.slope(logits_NC)
    exp_NC = _exp_below(logits_NC, sweep.maxima_N)
    exp_NC.scatter_(1, local_N1, exp_NC.gather(1, local_N1).masked_fill_(inside_N1, 0.0))
    sweep.others_N += exp_NC.sum(1)
    if not isinstance(slope_NC, float) or slope_NC != 1.0:
        exp_NC *= slope_NC
    rounded_NC = exp_NC.to(head.weight_VD.dtype)
    sweep.pull_ND += rounded_NC @ head.weight_VD[columns]
    sweep.grams.add(exp_NC, rounded_NC)
