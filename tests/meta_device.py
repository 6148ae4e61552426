"""Batches on torch's meta device: shapes without data. What reads a value there on the host raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

META = torch.device("meta")


def meta_model(config: PreTrainedConfig, attention: str) -> PreTrainedModel:
    """A bfloat16 model without weights, in evaluation mode."""
    with META:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.bfloat16)
    return model.eval()


@contextmanager
def counted_mask_checks() -> Iterator[list[None]]:
    """Count transformers' own reads: building a mask, it asks whether a batch is packed. Here none is."""
    calls: list[None] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: calls.append(None)
        )
        yield calls
