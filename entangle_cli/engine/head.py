"""The unembedding: log-probs, the gradient they send back, and the head's own products, in one sweep of the vocabulary.

Logits are formed a chunk of the vocabulary at a time and never kept, like the keys of flash attention: what
depends on the normaliser is accumulated against a running maximum and rescaled when that rises.

With p the softmax at a position, y its target and r = 1 - p_y, the gradient of log p_y with respect to the logits is
r e_y - sum_{v != y} p_v e_v. Both parts are kept apart: r is the sum of the other probabilities, so a
confident position (p_y near 1) loses no digits, where one-hot minus softmax would cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from entangle_cli.engine.products import at_least_float32

CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 64 * 2**20}
"""Bytes of one chunk of logits in float32. Below 32 MiB the C library takes memory from its heap instead of asking for
fresh pages each time: 5 % of a batch of GPT-2 at 64 tokens. A GPU rather wants few large products."""

SYMMETRIC_TILE = 64
"""Rows of a tile of a symmetric gram: small enough to skip most of its lower half."""

PRODUCT_BLOCK = 8 * SYMMETRIC_TILE
"""Rows of a gram that are turned into products at a time; bounds the memory of long responses."""


@dataclass(frozen=True, slots=True)
class Unembedding:
    """The last linear layer of a model and what the model does to its output."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    """Logits are multiplied by it first (Cohere, Granite)."""
    softcap: float | None = None
    """Then they are c tanh(logits / c) (Gemma 2)."""

    def logits(self, hidden_ND: Tensor, columns: slice | Tensor) -> Tensor:
        """Logits of some columns of the vocabulary, [N, C], rounded as the model rounds them, at least float32."""
        bias = None if self.bias_V is None else self.bias_V[columns]
        raw_NC = torch.nn.functional.linear(hidden_ND, self.weight_VD[columns], bias)
        return self._finish(raw_NC)

    def _finish(self, raw: Tensor) -> Tensor:
        logits = at_least_float32(raw)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of the finished logits with respect to the raw ones, at the finished logits' values."""
        if self.softcap is None:
            return self.scale
        return self.scale * (1.0 - (logits / self.softcap).square())


@dataclass(frozen=True, slots=True)
class HeadPass:
    """What the head knows of a batch after its sweep."""

    hidden_ND: Tensor
    """Detached inputs of the head at the scored positions."""
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
    weight_products: Tensor | None
    bias_products: Tensor | None


@dataclass(slots=True)
class _Sweep:
    """Running sums over the vocabulary, all relative to the running maxima."""

    maxima_N: Tensor
    target_logits_N: Tensor
    others_N: Tensor
    """Sum of exp over all columns but the target."""
    pull_ND: Tensor
    """Sum of exp times slope times unembedding row, over all columns but the target."""
    grams: list[tuple[Tensor, Tensor, Tensor]]
    """Per pair: chosen x chosen, rejected x rejected, chosen x rejected, of exp times slope."""

    def rescale(self, maxima_N: Tensor, pairs: Sequence[tuple[slice, slice]]) -> None:
        """Raise the maxima."""
        factor_N = torch.exp(self.maxima_N - maxima_N)
        self.others_N *= factor_N
        self.pull_ND *= factor_N.unsqueeze(1)
        for (chosen, rejected), (both_chosen, both_rejected, mixed) in zip(pairs, self.grams, strict=False):
            both_chosen *= torch.outer(factor_N[chosen], factor_N[chosen])
            both_rejected *= torch.outer(factor_N[rejected], factor_N[rejected])
            mixed *= torch.outer(factor_N[chosen], factor_N[rejected])
        self.maxima_N = maxima_N


def sweep_vocabulary(
    head: Unembedding,
    hidden_ND: Tensor,
    targets_N: Tensor,
    slices: Sequence[slice],
    *,
    with_products: bool,
) -> HeadPass:
    """Log-probs of the targets, their gradient at the hidden states, and the head's products.

    Args:
        hidden_ND: inputs of the head at the scored positions, no graph.
        slices: per row (chosen rows first), its stretch of N.
        with_products: whether the head's weight and bias are among the parameters asked for.
    Precision: sums over the vocabulary in float32 (float64 for float64 models), log-probs in float64.
    Cost: 4 N V D flops, and about 6 R^2 (V + D) a pair with products; memory of `CHUNK_BYTES` a few times and R^2.
    """
    num_pairs = len(slices) // 2
    pairs = list(zip(slices[:num_pairs], slices[num_pairs:], strict=True))
    sweep = _start(hidden_ND, pairs if with_products else [])
    vocabulary = head.weight_VD.shape[0]
    chunk = _chunk_columns(hidden_ND)
    for start in range(0, vocabulary, chunk):
        _add_columns(sweep, head, hidden_ND, targets_N, pairs, slice(start, min(start + chunk, vocabulary)))
    target_exp_N = torch.exp(sweep.target_logits_N - sweep.maxima_N)
    normalisers_N = sweep.others_N + target_exp_N
    target_residuals_N = sweep.others_N / normalisers_N * head.slope(sweep.target_logits_N)
    seed_ND = target_residuals_N.unsqueeze(1) * head.weight_VD[targets_N]
    seed_ND -= sweep.pull_ND / normalisers_N.unsqueeze(1)
    result = HeadPass(
        hidden_ND=hidden_ND,
        log_probs_N=_target_log_probs(sweep.target_logits_N, sweep.maxima_N, sweep.others_N),
        seed_ND=seed_ND.to(hidden_ND.dtype),
        targets_N=targets_N,
        maxima_N=sweep.maxima_N,
        normalisers_N=normalisers_N,
        target_residuals_N=target_residuals_N,
        weight_products=None,
        bias_products=None,
    )
    return _with_products(result, head, pairs, sweep.grams) if with_products else result


def sweep_log_probs(head: Unembedding, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Log-probs of the targets alone, float64 [N], nats; as `sweep_vocabulary` computes them.

    Cost: 2 N V D flops, memory of `CHUNK_BYTES` twice.
    """
    values = at_least_float32(hidden_ND)
    maxima_N = values.new_full((values.shape[0],), -torch.inf)
    others_N, target_logits_N = values.new_zeros(values.shape[0]), values.new_zeros(values.shape[0])
    vocabulary = head.weight_VD.shape[0]
    chunk = _chunk_columns(values)
    for start in range(0, vocabulary, chunk):
        logits_NC = head.logits(hidden_ND, slice(start, min(start + chunk, vocabulary)))
        risen_N = torch.maximum(maxima_N, logits_NC.amax(1))
        others_N *= torch.exp(maxima_N - risen_N)
        maxima_N = risen_N
        local_N1, inside_N1 = _local_targets(targets_N, start, logits_NC.shape[1])
        at_target_N1 = logits_NC.gather(1, local_N1)
        target_logits_N = torch.where(inside_N1, at_target_N1, target_logits_N.unsqueeze(1)).squeeze(1)
        exp_NC = logits_NC.sub_(maxima_N.unsqueeze(1)).exp_()
        exp_NC.scatter_(1, local_N1, exp_NC.gather(1, local_N1).masked_fill_(inside_N1, 0.0))
        others_N += exp_NC.sum(1)
    return _target_log_probs(target_logits_N, maxima_N, others_N)


def weighted_backward(head: Unembedding, hidden_ND: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    """Backward of sum_n weight_n log p(target_n) through the head, a few positions at a time.

    The head's own parameters collect their gradients where they require them.

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


def _target_log_probs(target_logits_N: Tensor, maxima_N: Tensor, others_N: Tensor) -> Tensor:
    shifted_N = (target_logits_N - maxima_N).double()
    # In float64, since 1 + 1e-8 is 1 in float32 and its logarithm the whole log-prob of a sure position.
    return shifted_N - (others_N.double() + shifted_N.exp()).log()


def _local_targets(targets_N: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Column of each target in a chunk [N, 1], any column where it is elsewhere; whether it is in the chunk."""
    local_N1 = (targets_N - start).unsqueeze(1)
    return local_N1.clamp(0, width - 1), (local_N1 >= 0) & (local_N1 < width)


def _chunk_columns(hidden_ND: Tensor) -> int:
    """Columns of the vocabulary that are computed at a time."""
    chunk_bytes = CHUNK_BYTES.get(hidden_ND.device.type, CHUNK_BYTES["cuda"])
    return max(1, chunk_bytes // (4 * max(1, hidden_ND.shape[0])))


def _start(hidden_ND: Tensor, pairs: Sequence[tuple[slice, slice]]) -> _Sweep:
    values = at_least_float32(hidden_ND)
    num_positions = values.shape[0]

    def square(rows: slice, columns: slice) -> Tensor:
        return values.new_zeros(rows.stop - rows.start, columns.stop - columns.start)

    return _Sweep(
        maxima_N=values.new_full((num_positions,), -torch.inf),
        target_logits_N=values.new_zeros(num_positions),
        others_N=values.new_zeros(num_positions),
        pull_ND=torch.zeros_like(values),
        grams=[
            (square(chosen, chosen), square(rejected, rejected), square(chosen, rejected)) for chosen, rejected in pairs
        ],
    )


def _add_columns(
    sweep: _Sweep,
    head: Unembedding,
    hidden_ND: Tensor,
    targets_N: Tensor,
    pairs: Sequence[tuple[slice, slice]],
    columns: slice,
) -> None:
    logits_NC = head.logits(hidden_ND, columns)
    sweep.rescale(torch.maximum(sweep.maxima_N, logits_NC.amax(1)), pairs)
    local_N1, inside_N1 = _local_targets(targets_N, columns.start, logits_NC.shape[1])
    at_target_N1 = logits_NC.gather(1, local_N1)
    sweep.target_logits_N = torch.where(inside_N1, at_target_N1, sweep.target_logits_N.unsqueeze(1)).squeeze(1)
    slope_NC = head.slope(logits_NC)
    exp_NC = logits_NC.sub_(sweep.maxima_N.unsqueeze(1)).exp_()
    exp_NC.scatter_(1, local_N1, exp_NC.gather(1, local_N1).masked_fill_(inside_N1, 0.0))
    sweep.others_N += exp_NC.sum(1)
    if not isinstance(slope_NC, float) or slope_NC != 1.0:
        exp_NC *= slope_NC
    sweep.pull_ND += (exp_NC.to(head.weight_VD.dtype) @ head.weight_VD[columns]).to(sweep.pull_ND.dtype)
    for (chosen, rejected), (both_chosen, both_rejected, mixed) in zip(pairs, sweep.grams, strict=False):
        chosen_RC, rejected_RC = exp_NC[chosen], exp_NC[rejected]
        _add_upper_half(both_chosen, chosen_RC)
        _add_upper_half(both_rejected, rejected_RC)
        mixed.addmm_(chosen_RC, rejected_RC.T)


def _add_upper_half(gram_RR: Tensor, rows_RC: Tensor) -> None:
    """Add rows' products with one another on and above the diagonal, and some below it."""
    for start in range(0, rows_RC.shape[0], SYMMETRIC_TILE):
        tile_tC = rows_RC[start : start + SYMMETRIC_TILE]
        gram_RR[start : start + SYMMETRIC_TILE, start:].addmm_(tile_tC, rows_RC[start:].T)


def _with_products(
    head_pass: HeadPass,
    head: Unembedding,
    pairs: Sequence[tuple[slice, slice]],
    grams: Sequence[tuple[Tensor, Tensor, Tensor]],
) -> HeadPass:
    totals = []
    for (chosen, rejected), (both_chosen, both_rejected, mixed) in zip(pairs, grams, strict=True):
        totals += [
            _symmetric_products(head_pass, head, chosen, both_chosen),
            _symmetric_products(head_pass, head, rejected, both_rejected),
            _mixed_products(head_pass, head, chosen, rejected, mixed),
        ]
    weight, bias = torch.stack(totals).reshape(len(pairs), 3, 2).permute(2, 1, 0)
    return replace(head_pass, weight_products=weight, bias_products=bias)


def _symmetric_products(head_pass: HeadPass, head: Unembedding, rows: slice, upper_RR: Tensor) -> Tensor:
    """Squared norms of the weight's and the bias's gradient, [2], from the upper half of a side's gram."""
    total = upper_RR.new_zeros(2, dtype=torch.float64)
    for start, stop in _product_blocks(rows):
        block = slice(rows.start + start, rows.start + stop)
        below = slice(rows.start + stop, rows.stop)
        square_tt = upper_RR[start:stop, start:stop]
        mirrored_tt = square_tt.triu() + square_tt.triu(1).T
        total += _block_products(head_pass, head, block, block, mirrored_tt)
        total += 2 * _block_products(head_pass, head, block, below, upper_RR[start:stop, stop:])
    return total


def _mixed_products(head_pass: HeadPass, head: Unembedding, left: slice, right: slice, gram: Tensor) -> Tensor:
    """Inner products of the weight's and the bias's gradients of two rows, [2]."""
    total = gram.new_zeros(2, dtype=torch.float64)
    for start, stop in _product_blocks(left):
        block = slice(left.start + start, left.start + stop)
        total += _block_products(head_pass, head, block, right, gram[start:stop])
    return total


def _product_blocks(rows: slice) -> list[tuple[int, int]]:
    length = rows.stop - rows.start
    return [(start, min(start + PRODUCT_BLOCK, length)) for start in range(0, length, PRODUCT_BLOCK)]


def _block_products(head_pass: HeadPass, head: Unembedding, left: slice, right: slice, gram: Tensor) -> Tensor:
    residual_gram = _residual_gram(head_pass, head, left, right, gram)
    hidden_ND = head_pass.hidden_ND
    input_gram = at_least_float32(hidden_ND[left]) @ at_least_float32(hidden_ND[right]).T
    bias = residual_gram.sum(-1).sum(dtype=torch.float64)
    return torch.stack([(residual_gram * input_gram).sum(-1).sum(dtype=torch.float64), bias])


def _residual_gram(head_pass: HeadPass, head: Unembedding, left: slice, right: slice, gram: Tensor) -> Tensor:
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
        + gram / normalisers
    )


def other_probabilities(head_pass: HeadPass, head: Unembedding, rows: slice, ids: Tensor) -> Tensor:
    """Softmax at some columns, times the logits' slope, zero where the column is the position's own target.

    Returns:
        [R, len(ids)] for the scored positions in `rows`.
    """
    logits = head.logits(head_pass.hidden_ND[rows], ids)
    shifted = logits - head_pass.maxima_N[rows].unsqueeze(1)
    probabilities = shifted.exp() / head_pass.normalisers_N[rows].unsqueeze(1) * head.slope(logits)
    return probabilities.masked_fill(head_pass.targets_N[rows].unsqueeze(1) == ids.unsqueeze(0), 0.0)


def hidden_similarities(hidden_ND: Tensor, slices: Sequence[slice]) -> Tensor:
    """CHES and its length-normalised form of every pair, float64 [2, P] (Razin et al., arXiv 2410.08847, Definition 2).

    With S the sum of the hidden states that predict a response's tokens, CHES = <S_c, S_r> - |S_c|^2; normalised,
    S is their mean. It is the head's P - A with every residual q replaced by 1.
    """
    sums = torch.stack([hidden_ND[rows].double().sum(0) for rows in slices])
    lengths = torch.tensor([rows.stop - rows.start for rows in slices], device=sums.device, dtype=sums.dtype)
    found = []
    for states in (sums, sums / lengths.unsqueeze(1)):
        chosen, rejected = states[: len(slices) // 2], states[len(slices) // 2 :]
        found.append((chosen * (rejected - chosen)).sum(1))
    return torch.stack(found)


def tied_cross_products(
    head_pass: HeadPass, head: Unembedding, slices: Sequence[slice], ids_BT: Tensor, gradient_BTD: Tensor
) -> Tensor:
    """What a shared embedding and unembedding adds beyond the products of its two uses: their cross terms.

    Row a looks ids up with gradient e_at, row b unembeds hidden states h_bs with residuals q_bs:
    <lookup_a, head_b> = sum_{t,s} q_bs[id_at] (e_at . h_bs). A squared norm holds it twice, the inner product once
    each way.
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
