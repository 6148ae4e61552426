"""The slow exact method for parameters without a rule: one forward and one ordinary backward pass per response."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from entangle_cli.engine.pair_products import PassResult
from entangle_cli.engine.products import at_least_float32, matrix_products
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse


def response_log_prob(model: nn.Module, response: TokenizedResponse) -> Tensor:
    """Summed log-prob of one response from the model's own logits: a scalar with its graph, nats."""
    device = next(model.parameters()).device
    ids_T = torch.tensor(response.ids, dtype=torch.long, device=device)
    logits_TV = model(input_ids=ids_T[None, :-1], use_cache=False).logits[0]
    scored_RV = logits_TV[response.first_scored - 1 :]
    scored_RV = scored_RV if scored_RV.dtype == torch.float64 else scored_RV.float()
    targets_R1 = ids_T[response.first_scored :, None]
    log_prob: Tensor = scored_RV.log_softmax(-1).gather(-1, targets_R1).sum()
    return log_prob


def measure_responses(
    model: nn.Module,
    pairs: Sequence[TokenizedPair],
    parameters: Mapping[str, nn.Parameter],
    device: torch.device,
    groups: Mapping[str, str],
) -> PassResult:
    """Log-probs and products of `parameters` by autograd, one unpadded response at a time.

    Args:
        device: device of the products. The parameters may be spread over several devices.
        groups: parameter name to the group in which its products are summed.
    Cost: one forward and one backward pass per response; memory of two gradients of `parameters`.
    """
    log_probs: list[list[float]] = [[], []]
    totals = {groups[name]: torch.zeros(3, len(pairs), dtype=torch.float64, device=device) for name in parameters}
    with requiring_grad(parameters), torch.enable_grad():
        for column, pair in enumerate(pairs):
            gradients = []
            for side, response in enumerate((pair.chosen, pair.rejected)):
                log_prob = response_log_prob(model, response)
                log_probs[side].append(float(log_prob.detach()))
                gradients.append(_gradients(log_prob, parameters))
            for name in parameters:
                products = _products(gradients[0][name], gradients[1][name])
                totals[groups[name]][:, column] += products.to(device)
    return PassResult(torch.tensor(log_probs[0] + log_probs[1], dtype=torch.float64), totals)


def _gradients(log_prob: Tensor, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    if not log_prob.requires_grad:
        return {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    gradients = torch.autograd.grad(log_prob, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def _products(chosen: Tensor, rejected: Tensor) -> Tensor:
    return matrix_products(_as_matrix(chosen), _as_matrix(rejected))


def _as_matrix(gradient: Tensor) -> Tensor:
    """Reshape a gradient to a matrix with its last dimension as columns. This limits a sum to one row."""
    return at_least_float32(gradient).reshape(-1, gradient.shape[-1] if gradient.dim() else 1)


def squared_gradient_norms(log_prob: Callable[[], Tensor], parameters: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """Squared norm of a scalar's gradient per parameter; 0.0 if the scalar does not depend on the parameter.

    Each gradient is freed once autograd has completed it, so the whole model's gradient never exists.
    """
    norms = dict.fromkeys(parameters, 0.0)
    hooks = []

    def note(name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient = _as_matrix(parameter.grad)
        norms[name] = float(torch.linalg.vecdot(gradient, gradient).sum(dtype=torch.float64))
        parameter.grad = None

    with requiring_grad(parameters), torch.enable_grad():
        for name, parameter in parameters.items():
            hook = parameter.register_post_accumulate_grad_hook(lambda finished, name=name: note(name, finished))
            hooks.append(hook)
        try:
            value = log_prob()
            if value.requires_grad:
                value.backward()
        finally:
            for hook in hooks:
                hook.remove()
    return norms


@contextmanager
def requiring_grad(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Make `parameters` require gradients inside the block. Afterwards restore the flags and clear the gradients."""
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])
            parameter.grad = None
