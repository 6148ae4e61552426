"""The processes of a training: they share the probe pairs, and keep their random state."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import distributed

Item = TypeVar("Item")


def _is_shared() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def share_of(items: Sequence[Item]) -> Sequence[Item]:
    """The items of this process. Without other processes, all of them."""
    return items[distributed.get_rank() :: distributed.get_world_size()] if _is_shared() else items


def gathered(item: Item) -> list[Item]:
    """The items of all processes. Every process must call this."""
    if not _is_shared():
        return [item]
    items: list[Item] = [item] * distributed.get_world_size()
    distributed.all_gather_object(items, item)
    return items


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the random state of Python, numpy and torch afterwards, on the CPU and on the current GPU."""
    python, numpy = random.getstate(), np.random.get_state()
    # The state of another GPU would take a context on it.
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
