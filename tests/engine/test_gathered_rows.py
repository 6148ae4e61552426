"""Rows of the tokens in an expert, tracked through the functions of expert layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from entangle_cli.engine.gathered_rows import GatheredRows

NUM_ROWS, NUM_TOKENS, WIDTH = 3, 4, 6


class Following(TorchFunctionMode):
    """Shows every call to a `GatheredRows`."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered = GatheredRows(NUM_ROWS, NUM_TOKENS)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.gathered.follow(func, args, kwargs or {}, result)
        return result


TOKENS = torch.tensor([11, 0, 5, 5, 8])
ROWS = [2, 0, 1, 1, 2]


def hidden_states() -> torch.Tensor:
    return torch.randn(NUM_ROWS * NUM_TOKENS, WIDTH)


@pytest.mark.parametrize(
    ("compute", "rows"),
    [
        (lambda values: values[TOKENS], ROWS),
        (lambda values: values.index_select(0, TOKENS), ROWS),
        (lambda values: values[None, TOKENS].reshape(-1, WIDTH), ROWS),
        (lambda values: torch.nn.functional.silu(values[TOKENS].chunk(2, dim=-1)[1]) * 2.0, ROWS),
        (lambda values: values[TOKENS][..., ::2], ROWS),
        (lambda values: values[TOKENS][torch.tensor([4, 0])], [2, 2]),
        (lambda values: values[TOKENS].split([2, 3])[1], [1, 1, 2]),
        (lambda values: torch.cat(values[TOKENS].split([2, 3]), dim=0), ROWS),
        (lambda values: values[torch.arange(12) % 5 == 0], [0, 1, 2]),
    ],
    ids=["index", "select", "older", "elementwise", "columns", "again", "split", "joined", "mask"],
)
def test_gathered_tokens_keep_their_rows(compute: Callable[[torch.Tensor], torch.Tensor], rows: list[int]) -> None:
    with Following() as following:
        result = compute(hidden_states())
        found = following.gathered.rows_of(result)
    assert found is not None
    assert found.tolist() == rows


@pytest.mark.parametrize(
    "compute",
    [
        lambda values: values * 2.0,
        lambda values: values[3:7],
        lambda values: values.clone().index_add_(0, TOKENS, values[TOKENS]),
        lambda values: torch.zeros(5, WIDTH).index_add_(0, torch.arange(5), values[TOKENS]),
        lambda values: values[TOKENS].flip(0),
        lambda values: values[TOKENS].sum(1),
        lambda values: values[:, 0][TOKENS],
    ],
    ids=["batch", "slice", "returned", "same-number", "reordered", "summed", "vector"],
)
def test_what_is_no_gathered_matrix_has_no_rows(compute: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with Following() as following:
        assert following.gathered.rows_of(compute(hidden_states())) is None
