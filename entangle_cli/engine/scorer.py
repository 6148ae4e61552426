"""Log-probs of pairs under a model, and the gradient of a weighted sum of log-probs.

Used for reference models, moved weights and whole training steps. It computes no other values per pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from entangle_cli.engine.batch import Batch, make_batch
from entangle_cli.engine.coverage import AGREEMENT, probe_pair
from entangle_cli.engine.gradient_pass import HeadNotFound, backward_from_scored, record_forward, scored_positions
from entangle_cli.engine.head_sweep import sweep_log_probs, weighted_backward
from entangle_cli.engine.host_copy import HostCopy
from entangle_cli.engine.model import find_unembedding, most_positions, prepared
from entangle_cli.engine.per_response import requiring_grad, response_log_prob
from entangle_cli.engine.uses import Use
from entangle_cli.records.measurement import TokenizedPair


class Scorer:
    """Scores pairs under a model. A context manager: inside it the model is frozen and in evaluation mode.

    Batch layout, unembedding and precision are those of the engine, so their results differ only by rounding. If a
    model's logits are not the unembedding of its last hidden states, the scorer uses its own logits, one response at a
    time.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._head = find_unembedding(model)
        self._by_own_logits = False
        self._stack = ExitStack()

    def __enter__(self) -> Scorer:
        with ExitStack() as stack:
            stack.enter_context(prepared(self._model))
            self._by_own_logits = not self._agrees_with_own_logits()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def log_probs(self, pairs: Sequence[TokenizedPair]) -> Tensor:
        """Summed log-probs of one batch, nats, float64 [2, P] on the CPU: chosen, then rejected."""
        return self.start(pairs)()

    def start(self, pairs: Sequence[TokenizedPair]) -> Callable[[], Tensor]:
        """Start a batch; the returned function waits for what `log_probs` returns."""
        log_probs = self._one_by_one(pairs) if self._by_own_logits else self._in_a_batch(pairs)
        copy = HostCopy({"log_probs": log_probs})
        return lambda: copy.read()["log_probs"]

    def weighted_gradient(
        self,
        batches: Iterable[tuple[Sequence[TokenizedPair], Tensor]],
        parameters: Mapping[str, nn.Parameter],
    ) -> dict[str, Tensor]:
        """Gradient of the sum over all pairs of weight_c * log pi(chosen) + weight_r * log pi(rejected).

        Args:
            batches: the pairs of each batch, and their weights [2, P].
            parameters: name to parameter; each tensor once.
        Returns:
            One tensor per parameter, in its dtype; zero if no gradient reaches the parameter.
        Cost: one forward and one backward pass with weight gradients per batch; memory of one gradient of `parameters`.
        """
        with requiring_grad(parameters), torch.enable_grad():
            for pairs, weights in batches:
                self._add_gradients(pairs, weights)
            return {
                name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                for name, parameter in parameters.items()
            }

    def _add_gradients(self, pairs: Sequence[TokenizedPair], weights: Tensor) -> None:
        if self._by_own_logits:
            for pair, (chosen, rejected) in zip(pairs, weights.T.tolist(), strict=True):
                for response, weight in ((pair.chosen, chosen), (pair.rejected, rejected)):
                    (weight * response_log_prob(self._model, response)).backward()
            return
        batch, hidden_BTD = self._hidden(pairs)
        scored_ND = scored_positions(hidden_BTD, batch)
        weights_N = weights.to(scored_ND.device).flatten()[batch.rows_N]
        backward_from_scored(hidden_BTD, batch, weighted_backward(self._head, scored_ND, batch.targets_N, weights_N))

    def _hidden(self, pairs: Sequence[TokenizedPair]) -> tuple[Batch, Tensor]:
        batch = make_batch(pairs, self._head.weight_VD.device, most_positions(self._model))
        _, hidden_BTD = record_forward(self._model, self._head, batch, {}, _nothing_to_consume)
        return batch, hidden_BTD

    def _in_a_batch(self, pairs: Sequence[TokenizedPair]) -> Tensor:
        batch, hidden_BTD = self._hidden(pairs)
        log_probs_N = sweep_log_probs(self._head, scored_positions(hidden_BTD, batch), batch.targets_N)
        return batch.scored.row_sums(log_probs_N).view(2, -1)

    def _one_by_one(self, pairs: Sequence[TokenizedPair]) -> Tensor:
        # Not under no_grad; see `coverage._log_prob`.
        sides = [[pair.chosen for pair in pairs], [pair.rejected for pair in pairs]]
        return torch.stack(
            [torch.stack([response_log_prob(self._model, row).detach().double() for row in side]) for side in sides]
        )

    def _agrees_with_own_logits(self) -> bool:
        layer: Any = self._model
        known = {id(self._head.weight_VD), id(self._head.bias_V)}
        if any(id(parameter) not in known for parameter in layer.get_output_embeddings().parameters()):
            # An adapter on the head. While one of its factors is zero it changes no logit, but it has a gradient.
            return False
        probe = [probe_pair(self._head.weight_VD.shape[0])]
        try:
            log_probs = self._in_a_batch(probe)
        except HeadNotFound:
            return False
        expected = self._one_by_one(probe)
        tolerance = AGREEMENT[self._head.weight_VD.dtype] * expected.abs().clamp(min=1.0)
        return bool(((log_probs - expected).abs() <= tolerance).all())


def _nothing_to_consume(use: Use, gradient: Tensor) -> None:
    """Do nothing: the scorer watches no parameters."""
