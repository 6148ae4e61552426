"""The slow reference: float64, one response at a time, ordinary autograd, every gradient flattened.

Imports nothing of the project, so that nothing of the project can be wrong in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Reference(NamedTuple):
    """What is true of a pair."""

    chosen_log_prob: float
    rejected_log_prob: float
    chosen_squared_norm: float
    rejected_squared_norm: float
    inner_product: float


def response_gradient(
    model: nn.Module, ids: Sequence[int], first_scored: int, parameters: Sequence[nn.Parameter]
) -> tuple[float, Tensor]:
    """Summed log-prob of ids[first_scored:] in nats, and its flat gradient over `parameters`."""
    row = torch.tensor([list(ids)])
    logits = model(input_ids=row, use_cache=False).logits[0, :-1].double()
    log_probs = logits.log_softmax(-1).gather(-1, row[0, 1:, None]).squeeze(-1)
    log_prob = log_probs[first_scored - 1 :].sum()
    gradients = torch.autograd.grad(log_prob, list(parameters), allow_unused=True)
    flat = [
        (torch.zeros_like(parameter) if gradient is None else gradient).double().flatten()
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    return log_prob.item(), torch.cat(flat)


def reference(
    model: nn.Module,
    chosen: tuple[Sequence[int], int],
    rejected: tuple[Sequence[int], int],
    names: Sequence[str] | None = None,
) -> Reference:
    """The five numbers of a pair; each response is (ids, first scored position).

    The model must be in float64 and evaluation mode; `names` restricts the parameters.
    """
    named = dict(model.named_parameters())
    before = [parameter.requires_grad for parameter in named.values()]
    for parameter in named.values():
        parameter.requires_grad_(True)
    parameters = [named[name] for name in (named if names is None else names)]
    chosen_log_prob, chosen_gradient = response_gradient(model, *chosen, parameters)
    rejected_log_prob, rejected_gradient = response_gradient(model, *rejected, parameters)
    for parameter, requires_grad in zip(named.values(), before, strict=True):
        parameter.requires_grad_(requires_grad)
    return Reference(
        chosen_log_prob,
        rejected_log_prob,
        float(chosen_gradient @ chosen_gradient),
        float(rejected_gradient @ rejected_gradient),
        float(chosen_gradient @ rejected_gradient),
    )
