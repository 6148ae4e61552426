"""One pass over a batch: one forward, one sweep of the vocabulary, one backward with activation gradients only.

No parameter requires a gradient, so that autograd computes none for weights. A collector gets each use of a parameter
with the gradient at its output the moment that gradient exists, and both are freed when it is done with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from entangle_cli.engine.batch import Batch
from entangle_cli.engine.calls import BatchShape, Unrecognised
from entangle_cli.engine.collector import Collector
from entangle_cli.engine.head_sweep import HeadPass, sweep_vocabulary
from entangle_cli.engine.recompute import recomputed_layers
from entangle_cli.engine.recorder import Recorder
from entangle_cli.engine.unembedding import Unembedding
from entangle_cli.engine.uses import Consume


class UnrecognisedUse(Exception):
    """The forward used parameters in ways no rule covers.

    Args:
        functions: parameter name to the function that took it.
    """

    def __init__(self, functions: Mapping[str, str]) -> None:
        super().__init__(", ".join(functions))
        self.functions = functions


class HeadNotFound(Exception):
    """The forward never applied the unembedding as a linear layer to every position."""


def run_pass(
    model: nn.Module,
    head: Unembedding,
    batch: Batch,
    names: Mapping[int, str],
    collector: Collector,
    *,
    recompute: bool = False,
) -> HeadPass:
    """Run a batch; the collector has its totals afterwards.

    Args:
        model: prepared (see `model.prepared`).
        names: id of each watched parameter to its name.
        recompute: layers are computed again in the backward pass instead of being kept.
    Returns:
        What the head knows of the batch.
    Raises:
        UnrecognisedUse: a watched parameter was used in a way no rule covers.
        HeadNotFound: the unembedding was not seen.
    """
    recorder, hidden_BTD = record_forward(model, head, batch, names, collector.consume, recompute=recompute)
    _refuse_unrecognised(recorder)
    head_pass, grams = sweep_vocabulary(
        head, scored_positions(hidden_BTD, batch), batch.targets_N, batch.slices, with_grams=collector.needs_head_grams
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
        HeadNotFound: the unembedding was not seen.
    """
    recorder = Recorder(names, BatchShape(*batch.ids_BT.shape), head.weight_VD, consume, batch.layout, note_kept)
    try:
        layers = recomputed_layers(model, recorder) if recompute else nullcontext()
        with torch.enable_grad(), layers, recorder:
            model(input_ids=batch.ids_BT, use_cache=False)
    except Unrecognised as error:
        # The recorder handles other calls itself; only an unembedding of something else than every position ends here.
        raise HeadNotFound from error
    hidden_BTD = recorder.take_hidden()
    if hidden_BTD is None:
        raise HeadNotFound
    return recorder, hidden_BTD


def scored_positions(hidden_BTD: Tensor, batch: Batch) -> Tensor:
    """The scored positions' hidden states [N, D], without graph."""
    return hidden_BTD.detach()[batch.rows_N, batch.positions_N]


def backward_from_scored(hidden_BTD: Tensor, batch: Batch, seed_ND: Tensor) -> None:
    """Run the backward pass from gradients at the scored positions; none where no parameter lies below the head."""
    if hidden_BTD.requires_grad:
        seed_BTD = torch.zeros_like(hidden_BTD)
        seed_BTD[batch.rows_N, batch.positions_N] = seed_ND.to(seed_BTD.dtype)
        torch.autograd.backward(hidden_BTD, seed_BTD)


def _refuse_unrecognised(recorder: Recorder) -> None:
    if recorder.unrecognised:
        raise UnrecognisedUse(recorder.unrecognised)
