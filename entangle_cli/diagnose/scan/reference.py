"""The reference model of a scan. It is loaded in addition to the checkpoint and gives log-probs only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from entangle_cli.data.checkpoint import Checkpoint, load_checkpoint
from entangle_cli.data.tokenizer import OTHER_TOKENS
from entangle_cli.engine.scorer import Scorer
from entangle_cli.errors import ModelError
from entangle_cli.records.settings import ScanSettings


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference model that is ready to score."""

    scorer: Scorer
    identity: Mapping[str, Any]


@contextmanager
def opened_reference(
    settings: ScanSettings, checkpoint: Checkpoint, device: torch.device
) -> Iterator[Reference | None]:
    """The reference model from the settings; None without one.

    As in TRL, it scores the checkpoint's token ids, so both models need the same tokens.

    Raises:
        ModelError: the reference cannot be loaded, has fewer tokens than the checkpoint, or has other tokens.
    """
    if settings.ref_model is None:
        yield None
        return
    # The base model, revision and template apply to the checkpoint only. The trust settings apply to both models.
    loading = replace(settings.loading, revision=None, base_model=None, chat_template=None)
    loaded = load_checkpoint(settings.ref_model, settings.dtype, device, loading, settings.device_map)
    sizes = [_num_tokens(model) for model in (checkpoint, loaded)]
    if sizes[1] < sizes[0]:
        raise ModelError(
            f"--ref-model {settings.ref_model} has embeddings for {sizes[1]:,} tokens, the checkpoint for {sizes[0]:,}",
            "a reference with all tokens of the checkpoint",
            "set --ref-model to the checkpoint from which training starts",
        )
    _refuse_other_tokens(settings.ref_model, checkpoint, loaded)
    with Scorer(loaded.model) as scorer:
        yield Reference(scorer, loaded.identity)


def _refuse_other_tokens(name: str, checkpoint: Checkpoint, reference: Checkpoint) -> None:
    """Reject a reference with a different vocabulary. A few added tokens may differ."""
    own, other = checkpoint.tokenizer.get_vocab(), reference.tokenizer.get_vocab()
    different = sum(other.get(token) != number for token, number in own.items())
    if different > OTHER_TOKENS * len(own):
        raise ModelError(
            f"--ref-model {name}: {different:,} of the checkpoint's {len(own):,} tokens differ in its tokenizer",
            "a reference with the same tokens as the checkpoint",
            "set --ref-model to the checkpoint from which training starts",
        )


def _num_tokens(checkpoint: Checkpoint) -> int:
    table: Any = checkpoint.model.get_input_embeddings()
    return int(table.weight.shape[0])
