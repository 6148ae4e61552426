"""Inner products of the gradients of single tokens' log-probs: the token Gram of a pair.

With g_t the gradient of token t's log-prob, M[t, s] = <g_t, g_s> over the n scored tokens of both answers. Its blocks
add up to the pair's numbers: A = 1'M_cc 1, B = 1'M_rr 1, P = 1'M_cr 1. Each token is a row of a batch that ends with
it, so that one backward pass carries the activation gradients of all of them, layer by layer; no gradient of a
whole model exists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from entangle_cli.engine.batch import Batch, make_batch
from entangle_cli.engine.coverage import make_plan
from entangle_cli.engine.gradient_pass import UnrecognisedUse, record_forward
from entangle_cli.engine.head import HeadPass, Unembedding, other_probabilities, sweep_vocabulary
from entangle_cli.engine.model import differentiable_inputs, experts_one_by_one, find_unembedding, frozen
from entangle_cli.engine.products import at_least_float32, routed_gram
from entangle_cli.engine.use_sum import (
    GatheredUses,
    UseSum,
    as_matrix_rows,
    left_tensor,
    linear_input,
    without_constant_id,
)
from entangle_cli.errors import ModelError
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse

MATERIALISED_ELEMENTS = 2**25
"""Elements of the gradients of all rows that are held at a time."""


@dataclass(frozen=True, slots=True)
class TokenGram:
    """The tokens of a pair, those of the chosen answer first."""

    log_probs_n: Tensor
    """float64, nats."""
    gram_nn: Tensor
    """float64: inner products of the tokens' gradients."""


def token_gram(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], pair: TokenizedPair, max_tokens: int
) -> TokenGram:
    """The token Gram of a pair.

    Args:
        parameters: name to parameter; those that count.
        max_tokens: tokens of a batch, padding included, at least twice the longer sequence. Where all rows do not fit,
            blocks of them run against one another, which takes more time and no more memory.
    Raises:
        ModelError: a parameter that no rule covers.
    Precision: inner products within a layer in float32 (float64 for float64 models), sums over layers in float64.
    Cost: for n tokens of sequences of T about n forward and backward passes of T / 2 tokens, n^2 T d a layer.
    """
    head = find_unembedding(model)
    with frozen(model), differentiable_inputs(model), experts_one_by_one(model):
        plan = make_plan(model, head, parameters, head.weight_VD.dtype)
        _refuse_slow(dict(plan.reasons))
        rows = [*_rows_of(pair.chosen), *_rows_of(pair.rejected)]
        sides = [0] * pair.chosen.num_scored + [1] * pair.rejected.num_scored
        names = {id(parameter): name for name, parameter in parameters.items()}
        gram_nn = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        log_probs_n = torch.zeros(len(rows), dtype=torch.float64)
        for places in _passes(rows, max_tokens):
            try:
                found = _one_pass(model, head, [rows[place] for place in places], [sides[p] for p in places], names)
            except UnrecognisedUse as unrecognised:
                _refuse_slow(dict(unrecognised.functions))
                raise
            where = torch.tensor(places)
            gram_nn[where.unsqueeze(1), where] = found.gram_nn.cpu()
            log_probs_n[where] = found.log_probs_n.cpu()
    return TokenGram(log_probs_n, gram_nn)


def planned_passes(pair: TokenizedPair, max_tokens: int) -> tuple[int, int]:
    """How many passes `token_gram` takes for a pair, and over how many tokens' gradients."""
    rows = [*_rows_of(pair.chosen), *_rows_of(pair.rejected)]
    return len(_passes(rows, max_tokens)), len(rows)


def _refuse_slow(reasons: Mapping[str, str]) -> None:
    if reasons:
        name, reason = next(iter(reasons.items()))
        raise ModelError(
            f"{len(reasons)} parameters have no rule that works token by token, such as {name}: {reason}",
            "parameters of layers that have a rule",
            "leave them out with --parameters",
        )


def _rows_of(response: TokenizedResponse) -> list[TokenizedResponse]:
    """A row for each scored token: the sequence up to it, of which it alone is scored."""
    return [
        TokenizedResponse(response.ids[: place + 1], place) for place in range(response.first_scored, len(response.ids))
    ]


def _passes(rows: Sequence[TokenizedResponse], max_tokens: int) -> list[list[int]]:
    """Places of the rows of each pass, such that every two rows meet in one."""
    longest = max(len(row.ids) for row in rows)
    if (len(rows) + len(rows) % 2) * longest <= max_tokens:
        return [list(range(len(rows)))]
    size = max(1, max_tokens // (2 * longest))
    blocks = [list(range(start, min(start + size, len(rows)))) for start in range(0, len(rows), size)]
    if len(blocks) == 1:
        return blocks
    return [first + second for place, first in enumerate(blocks) for second in blocks[place + 1 :]]


def _one_pass(
    model: nn.Module,
    head: Unembedding,
    rows: list[TokenizedResponse],
    sides: list[int],
    names: Mapping[int, str],
) -> TokenGram:
    """The Gram of some rows, in one batch."""
    # A batch has two rows a pair: an odd last row is there twice, and its copy is cut off again.
    count, half = len(rows), math.ceil(len(rows) / 2)
    padded = [*rows, *rows[-1:]][: 2 * half]
    batch = make_batch(
        [TokenizedPair(*both) for both in zip(padded[:half], padded[half:], strict=True)], head.weight_VD.device
    )
    grams = _GramSum(batch, head, names, [*sides, *sides[-1:]][: 2 * half])
    recorder, hidden_BTD = record_forward(model, head, batch, names, grams.consume)
    if recorder.unrecognised:
        raise UnrecognisedUse(recorder.unrecognised)
    hidden_ND = hidden_BTD.detach()[batch.rows_N, batch.positions_N]
    head_pass = sweep_vocabulary(head, hidden_ND, batch.targets_N, batch.slices, with_products=False)
    grams.take_counts(recorder)
    grams.take_head(head_pass)
    if hidden_BTD.requires_grad:
        seed_BTD = torch.zeros_like(hidden_BTD)
        seed_BTD[batch.rows_N, batch.positions_N] = head_pass.seed_ND
        torch.autograd.backward(hidden_BTD, seed_BTD)
    grams.finish()
    if recorder.unrecognised:
        raise UnrecognisedUse(recorder.unrecognised)
    total_BB = torch.stack(list(grams.totals.values())).sum(0)
    return TokenGram(head_pass.log_probs_N[:count], total_BB[:count, :count])


class _GramSum(UseSum):
    """Forms the inner products of all rows' gradients, float64 [B, B].

    Args:
        sides: which answer each row belongs to; rows of one answer start alike.
    """

    def __init__(self, batch: Batch, head: Unembedding, names: Mapping[int, str], sides: Sequence[int]) -> None:
        super().__init__(batch.ids_BT.shape[0], head.weight_VD.device)
        self._batch = batch
        self._head = head
        self._weight_name = names.get(id(head.weight_VD))
        self._bias_name = None if head.bias_V is None else names.get(id(head.bias_V))
        lengths = [int(position) for position in batch.positions_N]
        by_side = [[row for row, side in enumerate(sides) if side == which] for which in dict.fromkeys(sides)]
        self._sides = [(rows, max(rows, key=lambda row: lengths[row])) for rows in by_side]

    def take_head(self, head_pass: HeadPass) -> None:
        """Take the head's own gradients: each row scores one position."""
        self._hidden_BD = at_least_float32(head_pass.hidden_ND)
        every = slice(0, self.num_rows)
        vocabulary = torch.arange(self._head.weight_VD.shape[0], device=self._hidden_BD.device)
        self._residual_BV = -other_probabilities(head_pass, self._head, every, vocabulary)
        self._residual_BV.scatter_add_(1, head_pass.targets_N.unsqueeze(1), head_pass.target_residuals_N.unsqueeze(1))
        residual_BB = _gram(self._residual_BV)
        if self._weight_name is not None:
            self.add(self._weight_name, residual_BB * _gram(self._hidden_BD))
        if self._bias_name is not None:
            self.add(self._bias_name, residual_BB)

    def linear(self, uses: GatheredUses) -> Tensor:
        """Of a linear weight, by whichever factor is smaller."""
        use, gradient = uses[0]
        gradient_BTO = as_matrix_rows(gradient)
        inputs_BTI = linear_input(use).values_BTI
        if len(uses) == 1 and use.lines_up and inputs_BTI.shape[1] < inputs_BTI.shape[2]:
            return self._with_shared_inputs(at_least_float32(inputs_BTI), at_least_float32(gradient_BTO))
        inputs_BTI = torch.cat([linear_input(use).values_BTI for use, _ in uses], dim=1)
        gradient_BTO = torch.cat([as_matrix_rows(gradient) for _, gradient in uses], dim=1)
        return _materialised(at_least_float32(inputs_BTI), at_least_float32(gradient_BTO))

    def _with_shared_inputs(self, inputs_BTI: Tensor, gradient_BTO: Tensor) -> Tensor:
        """<x_a' q_a, x_b' q_b> = <q_a, (x_a x_b') q_b>, and rows of one answer have one x as far as they go."""
        gram_BB = torch.zeros(self.num_rows, self.num_rows, dtype=torch.float64, device=gradient_BTO.device)
        for place, (left_rows, left) in enumerate(self._sides):
            for right_rows, right in self._sides[place:]:
                inputs_TT = inputs_BTI[left] @ inputs_BTI[right].T
                left_nK = gradient_BTO[left_rows].flatten(1)
                # A few rows at a time: this factor is as large as the gradients themselves.
                for some in torch.tensor(right_rows).split(max(1, MATERIALISED_ELEMENTS // left_nK.shape[1])):
                    right_mK = (inputs_TT @ gradient_BTO[some]).flatten(1)
                    block = (left_nK @ right_mK.T).double()
                    gram_BB[torch.tensor(left_rows).unsqueeze(1), some] = block
                    gram_BB[some.unsqueeze(1), torch.tensor(left_rows)] = block.T
        return gram_BB

    def routed(self, inputs_nI: Tensor, gradient_nO: Tensor, rows_n: Tensor) -> Tensor:
        """Of an expert's weight."""
        return routed_gram(inputs_nI, gradient_nO, rows_n, self.num_rows)

    def lookup(self, uses: GatheredUses) -> Tensor:
        """Of an embedding; where it is the head's weight too, with what its two uses have in common."""
        ids_BT = torch.cat([left_tensor(use) for use, _ in uses], dim=1)
        gradient_BTD = at_least_float32(torch.cat([without_constant_id(use, grad) for use, grad in uses], dim=1))
        ids_U, slots_BT = ids_BT.unique(return_inverse=True)
        sums_BUD = gradient_BTD.new_zeros(self.num_rows, len(ids_U), gradient_BTD.shape[2])
        sums_BUD.scatter_add_(1, slots_BT.unsqueeze(-1).expand_as(gradient_BTD), gradient_BTD)
        gram_BB = _gram(sums_BUD.flatten(1))
        if uses[0][0].name != self._weight_name:
            return gram_BB
        # <lookup_a, head_b> = sum_u q_b[id_u] (e_au . h_b)
        cross_BB = torch.einsum("aud,bd,bu->ab", sums_BUD, self._hidden_BD, self._residual_BV[:, ids_U]).double()
        return gram_BB + cross_BB + cross_BB.T

    def vector(self, gradient_BI: Tensor) -> Tensor:
        """Of a scale or bias."""
        return _gram(gradient_BI.double())


def _gram(rows_BK: Tensor) -> Tensor:
    return (rows_BK @ rows_BK.T).double()


def _materialised(inputs_BTI: Tensor, gradient_BTO: Tensor) -> Tensor:
    """By building every row's gradient of the weight, some of its rows at a time."""
    num_rows, _, num_outputs = gradient_BTO.shape
    total = torch.zeros(num_rows, num_rows, dtype=torch.float64, device=gradient_BTO.device)
    for some_BTi in inputs_BTI.split(max(1, MATERIALISED_ELEMENTS // (num_rows * num_outputs)), dim=2):
        total += _gram((some_BTi.mT @ gradient_BTO).flatten(1))
    return total
