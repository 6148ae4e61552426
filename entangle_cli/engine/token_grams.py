"""The token Gram of a pair: inner products between the gradients of single tokens' log-probs.

With g_t the gradient of token t's log-prob, M[t, s] = <g_t, g_s> over the N scored tokens of both answers. The sums of
its blocks are the pair's numbers: A = 1'M_cc 1, B = 1'M_rr 1, P = 1'M_cr 1. Each token gets its own batch row, which
ends with that token. One backward pass then computes the activation gradients of all rows layer by layer. The gradient
of the whole model never exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from entangle_cli.engine.batch import Batch, make_batch
from entangle_cli.engine.collector import Collector, UsesWithGradients, all_lookups, as_matrix_rows, linear_input
from entangle_cli.engine.coverage import make_plan
from entangle_cli.engine.expert_tokens import ExpertTokens
from entangle_cli.engine.gradient_pass import UnrecognisedUse, run_pass
from entangle_cli.engine.head_grams import PairGrams
from entangle_cli.engine.head_products import other_probabilities, scored_rows
from entangle_cli.engine.head_sweep import HeadPass
from entangle_cli.engine.model import find_unembedding, most_positions, prepared
from entangle_cli.engine.products import at_least_float32, routed_gram
from entangle_cli.engine.unembedding import Unembedding
from entangle_cli.errors import ModelError
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse

MATERIALISED_ELEMENTS = 2**25
"""Elements of all rows' gradients to hold in memory at a time."""


@dataclass(frozen=True, slots=True)
class GramBlock:
    """A block of a pair's token Gram, on the host."""

    rows: Sequence[int]
    """Tokens of the block's rows, among the scored tokens of the pair, chosen first."""
    columns: Sequence[int]
    """Tokens of its columns; the same as `rows` for a block on the diagonal."""
    gram_BB: Tensor
    """float64: inner products of the tokens' gradients."""
    log_probs_B: Tensor | None
    """float64, nats: of the tokens in `rows`, for a block on the diagonal."""


def token_gram_blocks(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    pair: TokenizedPair,
    max_tokens: int,
    passed: Callable[[], None] = lambda: None,
) -> Iterator[GramBlock]:
    """The token Gram of a pair, block by block: every pair of tokens is in one block, or mirrored in one.

    Args:
        parameters: name to parameter, for the selected parameters.
        max_tokens: tokens per batch, padding included; at least twice the longer sequence. If the rows do not fit in
            one batch, pairs of row blocks run one after another. This costs time but no extra memory.
        passed: called after every pass.
    Raises:
        ModelError: no rule covers one of the parameters.
    Precision: inner products within a layer in float32 (float64 for float64 models), sums over layers in float64.
    Cost: about N forward and backward passes of T / 2 tokens, and N^2 T D flops per layer.
    """
    head = find_unembedding(model)
    with prepared(model):
        plan = make_plan(model, head, parameters, head.weight_VD.dtype)
        _refuse_slow(plan.reasons)
        rows = [*_rows_of(pair.chosen), *_rows_of(pair.rejected)]
        sides = [0] * pair.chosen.num_scored + [1] * pair.rejected.num_scored
        names = {id(parameter): name for name, parameter in parameters.items()}
        on_diagonal: set[int] = set()
        for parts in _passes(rows, max_tokens):
            tokens = [token for part in parts for token in part]
            try:
                gram_BB, log_probs_B = _one_pass(
                    model, head, [rows[token] for token in tokens], [sides[token] for token in tokens], names
                )
            except UnrecognisedUse as unrecognised:
                _refuse_slow(unrecognised.functions)
                raise
            passed()
            yield from _blocks(parts, gram_BB.cpu(), log_probs_B.cpu(), on_diagonal)


def _blocks(
    parts: Sequence[Sequence[int]], gram_BB: Tensor, log_probs_B: Tensor, on_diagonal: set[int]
) -> Iterator[GramBlock]:
    """The blocks of one pass that no earlier pass gave.

    Args:
        on_diagonal: first tokens of the parts whose own block was given; extended here.
    """
    ends = list(accumulate(map(len, parts), initial=0))
    own = [slice(start, end) for start, end in pairwise(ends)]
    for part, rows in zip(parts, own, strict=True):
        if part[0] not in on_diagonal:
            on_diagonal.add(part[0])
            yield GramBlock(part, part, gram_BB[rows, rows], log_probs_B[rows])
    if len(parts) == 2:
        yield GramBlock(parts[0], parts[1], gram_BB[own[0], own[1]], None)


def planned_passes(pair: TokenizedPair, max_tokens: int) -> tuple[int, int]:
    """Number of passes and of tokens with gradients that `token_gram` needs for a pair."""
    rows = [*_rows_of(pair.chosen), *_rows_of(pair.rejected)]
    return len(_passes(rows, max_tokens)), len(rows)


def _refuse_slow(reasons: Mapping[str, str]) -> None:
    if reasons:
        name, reason = next(iter(reasons.items()))
        raise ModelError(
            f"no rule works token by token for {len(reasons)} parameter{'s' * (len(reasons) > 1)}, such as {name}: "
            f"{reason}",
            "parameters of layers that have a rule",
            "exclude them with --parameters REGEX",
        )


def _rows_of(response: TokenizedResponse) -> list[TokenizedResponse]:
    """One row per scored token: the sequence up to that token, which is the only one scored."""
    return [
        TokenizedResponse(response.ids[: position + 1], position)
        for position in range(response.first_scored, len(response.ids))
    ]


def _passes(rows: Sequence[TokenizedResponse], max_tokens: int) -> list[list[list[int]]]:
    """Row indices of each pass. Every two rows share at least one pass."""
    longest = max(len(row.ids) for row in rows)
    if (len(rows) + len(rows) % 2) * longest <= max_tokens:
        return [[list(range(len(rows)))]]
    size = max(1, max_tokens // (2 * longest))
    blocks = [list(range(start, min(start + size, len(rows)))) for start in range(0, len(rows), size)]
    if len(blocks) == 1:
        return [blocks]
    return [[first, second] for index, first in enumerate(blocks) for second in blocks[index + 1 :]]


def _one_pass(
    model: nn.Module,
    head: Unembedding,
    rows: list[TokenizedResponse],
    sides: list[int],
    names: Mapping[int, str],
) -> tuple[Tensor, Tensor]:
    """The Gram of some rows, computed in one batch."""
    # A batch has two rows per pair. With an odd number of rows the last one is duplicated, and its copy dropped again.
    count, half = len(rows), math.ceil(len(rows) / 2)
    padded = [*rows, *rows[-1:]][: 2 * half]
    pairs = [TokenizedPair(*both) for both in zip(padded[:half], padded[half:], strict=True)]
    batch = make_batch(pairs, head.weight_VD.device, most_positions(model))
    collector = _RowGrams(batch, head, names, [*sides, *sides[-1:]][: 2 * half])
    head_pass = run_pass(model, head, batch, names, collector)
    return collector.total_BB[:count, :count], head_pass.log_probs_N[:count]


class _RowGrams(Collector):
    """Computes inner products between all rows' gradients. Every row scores one token.

    Args:
        sides: the answer of each row, 0 or 1. Rows of one answer start with the same tokens.

    Attributes:
        total_BB: float64, the sum over all parameters.
    """

    def __init__(self, batch: Batch, head: Unembedding, names: Mapping[int, str], sides: Sequence[int]) -> None:
        super().__init__(batch, head, names)
        self.total_BB = torch.zeros(self.num_rows, self.num_rows, dtype=torch.float64, device=self.device)
        lengths = [int(position) for position in batch.positions_N]
        by_side = [[row for row, side in enumerate(sides) if side == which] for which in dict.fromkeys(sides)]
        self._rows_and_longest = [(rows, max(rows, key=lambda row: lengths[row])) for rows in by_side]

    def take_head(self, head_pass: HeadPass, grams: Sequence[PairGrams]) -> None:  # noqa: ARG002 -- for pairs
        """Compute the head's inner products from each row's residual over the vocabulary."""
        self._hidden_BD = at_least_float32(head_pass.hidden_ND)
        rows = scored_rows(head_pass, torch.arange(self.num_rows, device=self._hidden_BD.device).unsqueeze(0))
        vocabulary = torch.arange(self.head.weight_VD.shape[0], device=self._hidden_BD.device)
        self._residual_BV = -other_probabilities(self.head, rows, vocabulary.unsqueeze(0)).squeeze(0)
        self._residual_BV.scatter_add_(1, head_pass.targets_N.unsqueeze(1), head_pass.target_residuals_N.unsqueeze(1))
        residual_BB = _gram(self._residual_BV)
        if self.head_weight_name is not None:
            self.add(self.head_weight_name, residual_BB * _gram(self._hidden_BD))
        if self.head_bias_name is not None:
            self.add(self.head_bias_name, residual_BB)

    def add(self, name: str, formed: Tensor) -> None:  # noqa: ARG002 -- one sum for all parameters
        """Add to the total."""
        self.total_BB += formed.to(self.device)

    def linear(self, uses: UsesWithGradients) -> None:
        """Add the inner products of a linear weight, using its smaller factor."""
        self.add(uses[0][0].name, self._linear(uses))

    def _linear(self, uses: UsesWithGradients) -> Tensor:
        use, gradient = uses[0]
        gradient_BTO = as_matrix_rows(gradient)
        inputs_BTI = linear_input(use).values_BTI
        if len(uses) == 1 and use.has_batch_positions and inputs_BTI.shape[1] < inputs_BTI.shape[2]:
            return self._with_shared_inputs(at_least_float32(inputs_BTI), at_least_float32(gradient_BTO))
        inputs_BTI = torch.cat([linear_input(use).values_BTI for use, _ in uses], dim=1)
        gradient_BTO = torch.cat([as_matrix_rows(gradient) for _, gradient in uses], dim=1)
        return _materialised(at_least_float32(inputs_BTI), at_least_float32(gradient_BTO))

    def _with_shared_inputs(self, inputs_BTI: Tensor, gradient_BTO: Tensor) -> Tensor:
        """<x_a' q_a, x_b' q_b> = <q_a, (x_a x_b') q_b>. Rows of one answer share x, up to their lengths."""
        gram_BB = torch.zeros(self.num_rows, self.num_rows, dtype=torch.float64, device=gradient_BTO.device)
        for index, (left_rows, left) in enumerate(self._rows_and_longest):
            for right_rows, right in self._rows_and_longest[index:]:
                inputs_TT = inputs_BTI[left] @ inputs_BTI[right].T
                left_bK = gradient_BTO[left_rows].flatten(1)
                # A few rows at a time: this factor is as large as the gradients themselves.
                for some_b in torch.tensor(right_rows).split(max(1, MATERIALISED_ELEMENTS // left_bK.shape[1])):
                    right_bK = (inputs_TT @ gradient_BTO[some_b]).flatten(1)
                    block_bb = (left_bK @ right_bK.T).double()
                    gram_BB[torch.tensor(left_rows).unsqueeze(1), some_b] = block_bb
                    gram_BB[some_b.unsqueeze(1), torch.tensor(left_rows)] = block_bb.T
        return gram_BB

    def routed(self, inputs_GI: Tensor, gradient_GO: Tensor, rows_G: Tensor) -> Tensor:
        """Inner products of an expert's weight."""
        return routed_gram(inputs_GI, gradient_GO, rows_G, self.num_rows)

    def grouped(self, inputs_GI: Tensor, gradient_GO: Tensor, tokens: ExpertTokens) -> Tensor:
        """Inner products of the experts of a layer."""
        total_BB = torch.zeros_like(self.total_BB)
        for expert in tokens.experts_G.unique().tolist():
            own_G = (tokens.experts_G == expert).nonzero().squeeze(1)
            total_BB += routed_gram(inputs_GI[own_G], gradient_GO[own_G], tokens.rows_G[own_G], self.num_rows)
        return total_BB

    def lookup(self, uses: UsesWithGradients) -> Tensor:
        """Inner products of an embedding, with cross terms if it is also the head's weight."""
        ids_BT, gradient_BTD = all_lookups(uses)
        gradient_BTD = at_least_float32(gradient_BTD)
        ids_W, slots_BT = ids_BT.unique(return_inverse=True)
        sums_BWD = gradient_BTD.new_zeros(self.num_rows, len(ids_W), gradient_BTD.shape[2])
        sums_BWD.scatter_add_(1, slots_BT.unsqueeze(-1).expand_as(gradient_BTD), gradient_BTD)
        gram_BB = _gram(sums_BWD.flatten(1))
        if uses[0][0].name != self.head_weight_name:
            return gram_BB
        # <lookup_a, head_b> = sum_w q_b[id_w] (e_aw . h_b)
        cross_BB = torch.einsum("awd,bd,bw->ab", sums_BWD, self._hidden_BD, self._residual_BV[:, ids_W]).double()
        return gram_BB + cross_BB + cross_BB.T

    def vector(self, name: str, gradient_BK: Tensor) -> None:
        """Add the inner products of a scale or bias."""
        self.add(name, _gram(gradient_BK.double()))


def _gram(rows_BK: Tensor) -> Tensor:
    return (rows_BK @ rows_BK.T).double()


def _materialised(inputs_BTI: Tensor, gradient_BTO: Tensor) -> Tensor:
    """Build every batch row's gradient of the weight, a few weight rows at a time, and sum the inner products."""
    num_rows, _, num_outputs = gradient_BTO.shape
    total_BB = torch.zeros(num_rows, num_rows, dtype=torch.float64, device=gradient_BTO.device)
    for some_BTi in inputs_BTI.split(max(1, MATERIALISED_ELEMENTS // (num_rows * num_outputs)), dim=2):
        total_BB += _gram((some_BTi.mT @ gradient_BTO).flatten(1))
    return total_BB
