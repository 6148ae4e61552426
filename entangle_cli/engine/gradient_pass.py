"""One pass over a batch: a forward pass, a vocabulary sweep, and a backward pass with activation gradients only.

No parameter requires a gradient, so autograd computes no weight gradients. As soon as the gradient at a use's output
exists, the collector receives both. They are freed once the collector has processed them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from entangle_cli.engine.batch import Batch
from entangle_cli.engine.calls import BatchShape, Unrecognised
from entangle_cli.engine.collector import Collector
from entangle_cli.engine.expert_tokens import grouped_experts
from entangle_cli.engine.head_sweep import HeadPass, sweep_vocabulary
from entangle_cli.engine.recompute import recomputed_layers
from entangle_cli.engine.recorder import Recorder
from entangle_cli.engine.unembedding import Unembedding
from entangle_cli.engine.uses import Consume


class UnrecognisedUse(Exception):
    """The forward pass used parameters in ways that no rule covers.

    Args:
        functions: parameter name to the function that used it.
    """

    def __init__(self, functions: Mapping[str, str]) -> None:
        super().__init__(", ".join(functions))
        self.functions = functions


class HeadNotFound(Exception):
    """The forward pass never applied the unembedding as a linear layer to all positions."""


def run_pass(
    model: nn.Module,
    head: Unembedding,
    batch: Batch,
    names: Mapping[int, str],
    collector: Collector,
    *,
    recompute: bool = False,
) -> HeadPass:
    """Run a batch. Afterwards the collector holds its totals.

    Args:
        model: prepared (see `model.prepared`).
        names: id of each watched parameter to its name.
        recompute: recompute layers in the backward pass instead of keeping their activations.
    Returns:
        The head's results for the batch.
    Raises:
        UnrecognisedUse: a watched parameter was used in a way that no rule covers.
        HeadNotFound: the unembedding was not applied to all positions.
    """
    with grouped_experts(model):
        recorder, hidden_BTD = record_forward(model, head, batch, names, collector.consume, recompute=recompute)
        _refuse_unrecognised(recorder)
        head_pass, grams = sweep_vocabulary(
            head,
            scored_positions(hidden_BTD, batch),
            batch.targets_N,
            batch.scored,
            with_grams=collector.needs_head_grams,
        )
        collector.expect(recorder.num_uses)
        collector.take_head(head_pass, grams)
        del grams
        backward_from_scored(hidden_BTD, batch, head_pass.seed_ND)
        collector.finish()
        _refuse_unrecognised(recorder)
        return head_pass


def record_forward(
    model: nn.Module,
    head: Unembedding,
    batch: Batch,
    names: Mapping[int, str],
    consume: Consume,
    note_kept: Callable[[Tensor], None] | None = None,
    *,
    recompute: bool = False,
) -> tuple[Recorder, Tensor]:
    """Run the model on a batch under a recorder.

    Returns:
        The recorder, and the unembedding's input [B, T, D] with its graph.
    Raises:
        HeadNotFound: the unembedding was not applied to all positions.
    """
    recorder = Recorder(names, BatchShape(*batch.ids_BT.shape), head.weight_VD, consume, batch.layout, note_kept)
    try:
        layers = recomputed_layers(model, recorder) if recompute else nullcontext()
        with torch.enable_grad(), layers, recorder:
            model(input_ids=batch.ids_BT, use_cache=False)
    except Unrecognised as error:
        # The recorder handles all other calls. Only an unembedding that does not cover all positions raises here.
        raise HeadNotFound from error
    hidden_BTD = recorder.take_hidden()
    if hidden_BTD is None:
        raise HeadNotFound
    return recorder, hidden_BTD


def scored_positions(hidden_BTD: Tensor, batch: Batch) -> Tensor:
    """Hidden states at the scored positions [N, D], detached."""
    return hidden_BTD.detach()[batch.rows_N, batch.positions_N]


def backward_from_scored(hidden_BTD: Tensor, batch: Batch, seed_ND: Tensor) -> None:
    """Run the backward pass from gradients at the scored positions. Do nothing if the head's input has no graph."""
    if hidden_BTD.requires_grad:
        seed_BTD = torch.zeros_like(hidden_BTD)
        seed_BTD[batch.rows_N, batch.positions_N] = seed_ND.to(seed_BTD.dtype)
        torch.autograd.backward(hidden_BTD, seed_BTD)


def _refuse_unrecognised(recorder: Recorder) -> None:
    if recorder.unrecognised:
        raise UnrecognisedUse(recorder.unrecognised)
