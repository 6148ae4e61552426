"""Optimizer updates against torch's optimizers on the weights themselves; derivatives against autograd."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from entangle_cli.engine.displacement import RELATIVE_STEPS, Weights
from entangle_cli.engine.scorer import Scorer
from entangle_cli.engine.update import AdamMoments, clip_factor, inner_product, make_optimizer, norm, optimizer_update
from entangle_cli.records.settings import OptimizerSettings
from tests.engine.pairs import assorted_pairs
from tests.oracle import response_gradient
from tests.tiny_models import VOCABULARY, tiny_model
from tests.true_float64 import TrueFloat64


def drawn(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in (("a", (3, 4)), ("b", (5,)))
    }


def parameters_of(values: Mapping[str, torch.Tensor]) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(value.clone()) for name, value in values.items()}


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_update_is_what_torchs_optimizer_does(name: str, max_grad_norm: float | None, steps_before: int) -> None:
    settings = OptimizerSettings(name, 0.01, {"a": 0.1}, max_grad_norm=max_grad_norm)
    parameters = parameters_of(drawn(0))
    groups = [{"params": [parameters["a"]], "weight_decay": 0.1}, {"params": [parameters["b"]], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.01) if name == "sgd" else torch.optim.AdamW(groups, lr=0.01)
    for step in range(steps_before + 1):
        gradient = drawn(10 + step)
        if step == steps_before:
            moments = {
                key: AdamMoments(int(state["step"]), state["exp_avg"].clone(), state["exp_avg_sq"].clone())
                for key, parameter in parameters.items()
                if (state := optimizer.state.get(parameter))
            }
            before = {key: parameter.detach().clone() for key, parameter in parameters.items()}
            predicted = optimizer_update(gradient, parameters, settings, moments)
            for key, parameter in parameters.items():
                assert torch.equal(parameter, before[key]), "a forecast changes nothing"
        for key, parameter in parameters.items():
            parameter.grad = gradient[key].clone()
        if max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), max_grad_norm)
        optimizer.step()
    for key, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach() - before[key], predicted[key], rtol=1e-9, atol=1e-15)


def test_a_small_update_keeps_its_digits_in_float32() -> None:
    parameters = {"a": nn.Parameter(torch.full((4,), 3.0))}
    gradient = {"a": torch.tensor([1e-3, -2.0, 5.0, 1e-6])}
    update = optimizer_update(gradient, parameters, OptimizerSettings("adamw", 1e-7, max_grad_norm=None), {})
    wide = {"a": gradient["a"].double()}
    expected = -1e-7 * wide["a"] / (wide["a"].abs() + 1e-8)
    torch.testing.assert_close(update["a"].double(), expected, rtol=1e-5, atol=0.0)


def test_moments_are_not_shared_with_the_optimizer_that_uses_them() -> None:
    moments = {"a": AdamMoments(3, torch.ones(2), torch.ones(2))}
    parameters = {"a": nn.Parameter(torch.zeros(2))}
    parameters["a"].grad = torch.ones(2)
    make_optimizer(parameters, OptimizerSettings(), moments).step()
    assert torch.equal(moments["a"].exp_avg_sq, torch.ones(2))


def test_norms_are_over_all_parameters() -> None:
    tensors = drawn(0)
    flat = torch.cat([value.flatten() for value in tensors.values()])
    assert norm(tensors) == pytest.approx(float(flat.norm()))
    assert inner_product(tensors, drawn(1)) == pytest.approx(
        float(flat @ torch.cat([value.flatten() for value in drawn(1).values()]))
    )
    assert clip_factor(tensors, None) == clip_factor(tensors, 1e6) == 1.0
    assert clip_factor(tensors, 0.5) == pytest.approx(0.5 / float(flat.norm()), rel=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 3e-2)])
def test_derivatives_are_inner_products_with_the_gradients(dtype: torch.dtype, tolerance: float) -> None:
    model, pairs = tiny_model("gpt2").to(dtype), assorted_pairs(VOCABULARY)
    parameters = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(0)
    direction = {
        name: 1e-6 * torch.randn(parameter.shape, generator=generator).to(dtype)
        for name, parameter in parameters.items()
    }
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with Scorer(model) as scorer, TrueFloat64():
        weights = Weights(parameters)
        start = scorer.log_probs(pairs)
        found = weights.derivatives(lambda: scorer.log_probs(pairs), start, direction, RELATIVE_STEPS[0])
        for name, parameter in parameters.items():
            assert torch.equal(parameter, before[name])
    wide = model.double()
    flat = torch.cat([direction[name].double().flatten() for name in parameters])
    expected = torch.tensor(
        [
            [
                float(response_gradient(wide, side.ids, side.first_scored, list(wide.parameters()))[1] @ flat)
                for side in sides
            ]
            for sides in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
        ]
    )
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.first.float(), expected, rtol=0, atol=tolerance * scale)
    if dtype == torch.float32:
        assert bool(((found.first - expected).abs() <= found.first_error + 1e-6 * scale).all())


def test_the_second_derivative_is_that_of_a_longer_step() -> None:
    model, pairs = tiny_model("llama"), assorted_pairs(VOCABULARY)
    parameters = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(0)
    direction = {
        name: torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for name, parameter in parameters.items()
    }
    with Scorer(model) as scorer, TrueFloat64():
        weights = Weights(parameters)
        start = scorer.log_probs(pairs)
        found = weights.derivatives(lambda: scorer.log_probs(pairs), start, direction, 1e-4)
        errors = []
        for length in (2e-3, 1e-3):
            with weights.moved(direction, length):
                change = scorer.log_probs(pairs) - start
            predicted = length * found.first + length**2 / 2 * found.second
            errors.append(float((change - predicted).abs().max()))
    # The remaining error is of third order: half the length gives an eighth of the error.
    assert errors[1] == pytest.approx(errors[0] / 8, rel=0.25)


def test_differences_are_exact_for_a_cubic() -> None:
    """The differences are of fourth order: even a step of half the weights is exact, unlike a plain difference."""
    parameters = {"a": nn.Parameter(torch.tensor([2.0], dtype=torch.float64))}
    direction = {"a": torch.tensor([1.0], dtype=torch.float64)}

    def log_probs() -> torch.Tensor:
        values = parameters["a"].detach()
        return (values**3 - 5 * values).expand(2, 1)

    found = Weights(parameters).derivatives(log_probs, log_probs(), direction, 0.5)
    torch.testing.assert_close(found.first, torch.full((2, 1), 7.0, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.second, torch.full((2, 1), 12.0, dtype=torch.float64), rtol=1e-12, atol=0)
    # (z(2+h) - z(2-h)) / 2h = 7 + h^2 with h = 1.
    torch.testing.assert_close(found.bend, torch.full((2, 1), 1.0, dtype=torch.float64), rtol=1e-12, atol=0)


def test_weights_that_are_all_zero_move_too() -> None:
    parameters = {"b": nn.Parameter(torch.zeros(3, dtype=torch.float64))}
    direction = {"b": torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)}

    def log_probs() -> torch.Tensor:
        return parameters["b"].detach().sum().expand(2, 1) - 7.0

    found = Weights(parameters).derivatives(log_probs, log_probs(), direction, 1e-4)
    torch.testing.assert_close(found.first, torch.full((2, 1), -0.5, dtype=torch.float64), rtol=1e-6, atol=0)


def test_no_direction_no_change() -> None:
    parameters = parameters_of(drawn(0))
    zero = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    found = Weights(parameters).derivatives(lambda: torch.ones(2, 3), torch.ones(2, 3), zero, 1e-4)
    assert not found.first.any()
