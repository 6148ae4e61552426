"""The layout of a batch."""

from __future__ import annotations

import pytest
import torch

from entangle_cli.engine.batch import make_batch
from entangle_cli.engine.model import most_positions
from tests.engine.pairs import random_pair
from tests.meta_device import META
from tests.tiny_models import VOCABULARY, tiny_model


def num_tokens(longest: int, device: torch.device, context: int | None = None) -> int:
    """T of a batch whose longest row has this many positions."""
    pair = random_pair(VOCABULARY, prompt=3, chosen=longest - 2, rejected=2, seed=0)
    return make_batch([pair], device, context).ids_BT.shape[1]


@pytest.mark.parametrize(
    ("longest", "padded"),
    [(5, 8), (8, 8), (9, 16), (100, 104), (127, 128), (200, 208), (300, 320), (511, 512), (513, 576), (2047, 2048)],
)
def test_a_device_gets_even_sizes_at_the_cost_of_an_eighth(longest: int, padded: int) -> None:
    assert num_tokens(longest, META) == padded
    assert padded - longest < max(8, longest / 8)
    assert num_tokens(longest, torch.device("cpu")) == longest


@pytest.mark.parametrize(("context", "padded"), [(None, 104), (104, 104), (102, 102), (100, 100), (90, 100)])
def test_padding_never_goes_beyond_the_models_context(context: int | None, padded: int) -> None:
    assert num_tokens(100, META, context) == padded


def test_the_most_positions_a_model() -> None:
    for family in ("gpt2", "llama", "opt"):
        model = tiny_model(family)
        assert most_positions(model) == model.config.max_position_embeddings
    assert most_positions(torch.nn.Linear(2, 2)) is None
