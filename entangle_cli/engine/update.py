"""The change of the weights in one optimizer step, computed by torch's own optimizers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from entangle_cli.records.settings import OptimizerSettings


@dataclass(frozen=True, slots=True)
class AdamMoments:
    """The running averages of AdamW for one parameter."""

    step: int
    exp_avg: Tensor
    exp_avg_sq: Tensor


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings, moments: Mapping[str, AdamMoments]
) -> torch.optim.Optimizer:
    """Create torch's optimizer for some parameters, with given moments from earlier steps."""
    groups = [
        {"params": [parameter], "weight_decay": settings.weight_decay.get(name, 0.0)}
        for name, parameter in parameters.items()
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon)
    for name, parameter in parameters.items():
        if name in moments:
            given = moments[name]
            optimizer.state[parameter] = {
                "step": torch.tensor(float(given.step)),
                "exp_avg": given.exp_avg.to(parameter).clone(),
                "exp_avg_sq": given.exp_avg_sq.to(parameter).clone(),
            }
    return optimizer


def optimizer_update(
    loss_gradient: Mapping[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    settings: OptimizerSettings,
    moments: Mapping[str, AdamMoments],
) -> dict[str, Tensor]:
    """Compute the change of every parameter in one step. The parameters themselves stay unchanged.

    The optimizer steps on zeros, so a change of 1e-6 keeps full precision next to a weight of 1. The steps of SGD and
    AdamW depend on the weights only through the decay, -lr * weight_decay * weight, which is added afterwards.

    Memory: the update, and the moments of one parameter.
    """
    factor = clip_factor(loss_gradient, settings.max_grad_norm)
    update = {}
    for name, parameter in parameters.items():
        decay = settings.weight_decay.get(name, 0.0)
        stand_in = nn.Parameter(torch.zeros_like(parameter))
        stand_in.grad = loss_gradient[name] * factor
        make_optimizer({name: stand_in}, settings, moments).step()
        update[name] = stand_in.detach() - settings.learning_rate * decay * parameter.detach()
    return update


SMALLEST_MOMENT = 0.01
"""Second moments below this share of their parameter's mean are raised to it. A handful of batches underestimates small
ones, and the update divides by their root."""


def run_update(
    descent: Mapping[str, Tensor],
    second_moments: Mapping[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    settings: OptimizerSettings,
    learning_rate_sum: float,
) -> dict[str, Tensor]:
    """Compute the change of every parameter over many steps in one direction.

    Args:
        descent: minus the gradient of the loss.
        second_moments: mean squared gradients; used by AdamW.
        learning_rate_sum: sum of the steps' learning rates.
    """
    update = {}
    for name, parameter in parameters.items():
        direction = descent[name]
        if settings.name == "adamw":
            squares = second_moments[name]
            floored = squares.clamp(min=SMALLEST_MOMENT * float(squares.mean()))
            direction = direction / (floored.sqrt() + settings.epsilon)
        decay = settings.weight_decay.get(name, 0.0)
        update[name] = learning_rate_sum * (direction - decay * parameter.detach())
    return update


def clip_factor(gradient: Mapping[str, Tensor], max_norm: float | None) -> float:
    """The factor of gradient clipping, as in `torch.nn.utils.clip_grad_norm_`."""
    if max_norm is None:
        return 1.0
    return min(1.0, max_norm / (norm(gradient) + 1e-6))


def norm(tensors: Mapping[str, Tensor]) -> float:
    """L2 norm over all parameters, summed in float64."""
    return math.sqrt(inner_product(tensors, tensors))


def inner_product(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """<left, right> over all parameters, summed in float64."""
    return math.fsum(float((left[name].double() * right[name].double()).sum()) for name in left)
