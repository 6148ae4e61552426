"""The reference model of a scan: loaded beside the checkpoint, and asked for log-probs only."""

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
    """The reference model of the settings; None where they name none.

    It reads the checkpoint's tokens, as in TRL, so that it must have as many.

    Raises:
        ModelError: it cannot be loaded, or has fewer tokens than the checkpoint.
    """
    if settings.ref_model is None:
        yield None
        return
    # A base, a revision and a template are the checkpoint's; what is trusted holds for both.
    loading = replace(settings.loading, revision=None, base_model=None, chat_template=None)
    loaded = load_checkpoint(settings.ref_model, settings.dtype, device, loading, settings.device_map)
    sizes = [_num_tokens(model) for model in (checkpoint, loaded)]
    if sizes[1] < sizes[0]:
        raise ModelError(
            f"--ref-model {settings.ref_model} has embeddings for {sizes[1]:,} tokens, the checkpoint for {sizes[0]:,}",
            "a reference that reads the checkpoint's tokens",
            "name the checkpoint that training starts from",
        )
    _refuse_other_tokens(settings.ref_model, checkpoint, loaded)
    with Scorer(loaded.model) as scorer:
        yield Reference(scorer, loaded.identity)


def _refuse_other_tokens(name: str, checkpoint: Checkpoint, reference: Checkpoint) -> None:
    """Refuse a reference that was trained on other tokens; a few added ones may differ."""
    own, its = checkpoint.tokenizer.get_vocab(), reference.tokenizer.get_vocab()
    other = sum(its.get(token) != number for token, number in own.items())
    if other > OTHER_TOKENS * len(own):
        raise ModelError(
            f"--ref-model {name}: {other:,} of the checkpoint's {len(own):,} tokens are others in its tokenizer",
            "a reference that reads the checkpoint's tokens",
            "name the checkpoint that training starts from",
        )


def _num_tokens(checkpoint: Checkpoint) -> int:
    table: Any = checkpoint.model.get_input_embeddings()
    return int(table.weight.shape[0])
