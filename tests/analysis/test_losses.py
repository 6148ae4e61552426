"""The coefficients against autograd of formulas written here, and against TRL's own loss code."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid as ls

from entangle_cli.analysis.losses import (
    LOSSES,
    Coefficients,
    LossPoint,
    find_loss,
    loss_coefficients,
)
from entangle_cli.errors import UsageError
from entangle_cli.records import LossSettings

# float64 against float64, one subtraction of log-probs of a few hundred nats in between.
FLOAT64_RTOL = 1e-11
# Coefficients are of order 1; below this they are rounding of a cancelled sum (NCA, SPPO, IPO).
FLOAT64_ATOL = 1e-13
# TRL's ORPO casts its log-probs to float32: 24 bits, twice subtracted.
FLOAT32_RTOL = 2e-5

BETAS = (0.01, 0.1, 2.5)
SEEDED_PAIRS = 300


class Pairs(NamedTuple):
    """The arguments of a loss formula, as tensors [pairs]."""

    z_c: torch.Tensor
    z_r: torch.Tensor
    ref_c: torch.Tensor
    ref_r: torch.Tensor
    n_c: torch.Tensor
    n_r: torch.Tensor


def seeded_point(at_reference: bool, seed: int = 0) -> LossPoint:
    generator = np.random.default_rng(seed)
    n_c = generator.integers(1, 200, SEEDED_PAIRS).astype(np.float64)
    n_r = generator.integers(1, 200, SEEDED_PAIRS).astype(np.float64)
    z_c = -n_c * generator.uniform(0.05, 4.0, SEEDED_PAIRS)
    z_r = -n_r * generator.uniform(0.05, 4.0, SEEDED_PAIRS)
    drift = 0.0 if at_reference else generator.normal(0.0, 15.0, (2, SEEDED_PAIRS))
    ref_c, ref_r = np.array([z_c, z_r]) + drift
    return LossPoint(z_c, z_r, ref_c, ref_r, n_c, n_r)


def autograd_coefficients(loss: Callable[[Pairs], torch.Tensor], point: LossPoint) -> Coefficients:
    arrays = (
        point.chosen_log_prob,
        point.rejected_log_prob,
        point.chosen_ref_log_prob,
        point.rejected_ref_log_prob,
        point.chosen_tokens,
        point.rejected_tokens,
    )
    pairs = Pairs(*(torch.tensor(array, dtype=torch.float64) for array in arrays))
    pairs.z_c.requires_grad_(True)
    pairs.z_r.requires_grad_(True)
    total = loss(pairs).sum()
    grad_c, grad_r = torch.autograd.grad(total, (pairs.z_c, pairs.z_r), materialize_grads=True)
    return Coefficients(-grad_c.numpy(), grad_r.numpy())


def assert_coefficients(actual: Coefficients, expected: Coefficients, rtol: float, atol: float) -> None:
    np.testing.assert_allclose(actual.chosen, expected.chosen, rtol=rtol, atol=atol)
    np.testing.assert_allclose(actual.rejected, expected.rejected, rtol=rtol, atol=atol)


def log_odds(mean_log_prob: torch.Tensor) -> torch.Tensor:
    return mean_log_prob - torch.log(-torch.expm1(mean_log_prob))


def formula(name: str, pairs: Pairs, b: float) -> torch.Tensor:
    """The losses from their papers, sharing nothing with the package."""
    z_c, z_r, ref_c, ref_r, n_c, n_r = pairs
    r_c, r_r = z_c - ref_c, z_r - ref_r
    match name:
        case "sigmoid":
            return -ls(b * (r_c - r_r))
        case "hinge":
            return torch.clamp(1 - b * (r_c - r_r), min=0)
        case "ipo":
            return (r_c / n_c - r_r / n_r - 1 / (2 * b)) ** 2
        case "sigmoid_norm":
            return -ls(b * r_c / n_c - b * r_r / n_r)
        case "simpo":
            return -ls(b * z_c / n_c - b * z_r / n_r - 0.5)
        case "cpo":
            return -ls(b * (z_c - z_r)) - z_c / n_c
        case "dpop":
            return -ls(b * (r_c - r_r - 50 * torch.relu(ref_c - z_c)))
        case "orpo":
            return -z_c / n_c - b * ls(log_odds(z_c / n_c) - log_odds(z_r / n_r))
        case "apo_zero":
            return 1 - torch.sigmoid(b * r_c) + torch.sigmoid(b * r_r)
        case "nca_pair":
            return -ls(b * r_c) - 0.5 * ls(-b * r_c) - 0.5 * ls(-b * r_r)
        case "bco_pair":
            return -ls(b * r_c) - ls(-b * r_r)
        case "sppo_hard":
            return (r_c - 1 / (2 * b)) ** 2 + (r_r + 1 / (2 * b)) ** 2
        case "robust":
            return (-0.9 * ls(b * (r_c - r_r)) + 0.1 * ls(-b * (r_c - r_r))) / 0.8
    raise AssertionError(name)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("at_reference", [False, True], ids=["drifted", "at reference"])
@pytest.mark.parametrize("name", LOSSES)
def test_coefficients_are_the_derivatives_of_the_loss(name: str, at_reference: bool, beta: float) -> None:
    point = seeded_point(at_reference)
    expected = autograd_coefficients(lambda pairs: formula(name, pairs, beta), point)
    actual = loss_coefficients(LossSettings(name, beta), point)
    assert_coefficients(actual, expected, rtol=FLOAT64_RTOL, atol=FLOAT64_ATOL)
    assert actual.chosen.dtype == actual.rejected.dtype == np.float64
    assert np.any(actual.chosen != 0)


@pytest.mark.parametrize("name", LOSSES)
def test_the_flags_say_what_the_coefficients_depend_on(name: str) -> None:
    point = seeded_point(at_reference=False)
    settings = LossSettings(name, 0.1)
    before = np.stack(loss_coefficients(settings, point))

    moved_reference = LossPoint(
        point.chosen_log_prob,
        point.rejected_log_prob,
        point.chosen_ref_log_prob - 3.0,
        point.rejected_ref_log_prob + 2.0,
        point.chosen_tokens,
        point.rejected_tokens,
    )
    changed = not np.array_equal(before, np.stack(loss_coefficients(settings, moved_reference)))
    assert changed == LOSSES[name].uses_reference

    longer = LossPoint(
        point.chosen_log_prob,
        point.rejected_log_prob,
        point.chosen_ref_log_prob,
        point.rejected_ref_log_prob,
        point.chosen_tokens + 7,
        point.rejected_tokens + 1,
    )
    changed = not np.array_equal(before, np.stack(loss_coefficients(settings, longer)))
    assert changed == LOSSES[name].uses_lengths


@pytest.mark.parametrize("name", LOSSES)
def test_the_table_is_complete(name: str) -> None:
    loss = LOSSES[name]
    assert loss.name == name
    assert loss.title
    assert loss.formula
    assert loss.source.startswith("arXiv ")
    assert loss.default_beta == LossSettings().beta
    assert find_loss(name) is loss


def single(z_c: float, z_r: float, n_c: float = 1, n_r: float = 1) -> LossPoint:
    """One pair whose reference gives probability 1 to both responses."""
    arrays = (np.array([float(value)]) for value in (z_c, z_r, 0.0, 0.0, n_c, n_r))
    return LossPoint(*arrays)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "orpo"])
def test_far_log_ratios_do_not_overflow(name: str) -> None:
    for z_c, z_r in [(-1e5, 0.0), (0.0, -1e5), (-1e5, -1e5)]:
        coefficients = loss_coefficients(LossSettings(name, 1.0), single(z_c, z_r))
        assert np.all(np.isfinite(coefficients))


def test_a_saturated_sigmoid_keeps_its_tail() -> None:
    coefficients = loss_coefficients(LossSettings("sigmoid", 1.0), single(-100.0, -400.0))
    np.testing.assert_allclose(coefficients.chosen, [math.exp(-300)], rtol=FLOAT64_RTOL, atol=0)


def test_orpo_at_probability_one() -> None:
    # With p_c -> 1: beta sigma(o_r - o_c) / (1 - p_c) -> beta p_r / (1 - p_r), and d_r -> 0.
    certain_chosen = loss_coefficients(LossSettings("orpo", 0.1), single(0.0, -1.0))
    limit = 1 + 0.1 * math.exp(-1) / (1 - math.exp(-1))
    np.testing.assert_allclose(certain_chosen.chosen, [limit], rtol=FLOAT64_RTOL, atol=0)
    np.testing.assert_array_equal(certain_chosen.rejected, [0.0])

    certain_rejected = loss_coefficients(LossSettings("orpo", 0.1), single(-1.0, 0.0))
    assert np.isinf(certain_rejected.rejected[0])

    # Probabilities that a float64 cannot hold.
    tiny = loss_coefficients(LossSettings("orpo", 0.1), single(-2000.0, -3000.0))
    np.testing.assert_array_equal(tiny.chosen, [1.0])


def test_a_hinge_stops_at_its_margin() -> None:
    at_margin = loss_coefficients(LossSettings("hinge", 0.5), single(-1.0, -3.0))
    np.testing.assert_array_equal(at_margin, [[0.0], [0.0]])
    below = loss_coefficients(LossSettings("hinge", 0.5), single(-1.0, -2.999))
    np.testing.assert_array_equal(below, [[0.5], [0.5]])


def test_dpop_at_its_reference_is_dpo() -> None:
    point = seeded_point(at_reference=True)
    dpop = loss_coefficients(LossSettings("dpop", 0.1), point)
    np.testing.assert_array_equal(np.stack(dpop), np.stack(loss_coefficients(LossSettings("sigmoid", 0.1), point)))


@pytest.mark.parametrize("name", ["ipo", "sigmoid_norm", "simpo", "cpo", "orpo"])
def test_a_response_without_scored_tokens_counts_as_one_token(name: str) -> None:
    settings = LossSettings(name, 0.1)
    none = loss_coefficients(settings, single(-3.0, -1.0, n_c=0, n_r=0))
    one = loss_coefficients(settings, single(-3.0, -1.0, n_c=1, n_r=1))
    np.testing.assert_array_equal(np.stack(none), np.stack(one))


@pytest.mark.parametrize("name", LOSSES)
def test_nan_stays_nan_in_its_own_pair(name: str) -> None:
    point = seeded_point(at_reference=False)
    point.chosen_log_prob[3] = np.nan
    chosen = loss_coefficients(LossSettings(name, 0.1), point).chosen
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(chosen)), [3])


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan, math.inf])
def test_an_unusable_beta_is_refused(beta: float) -> None:
    with pytest.raises(UsageError, match="beta"):
        loss_coefficients(LossSettings("sigmoid", beta), seeded_point(at_reference=True))


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("sigmod", "sigmoid"), ("DPO", "sigmoid"), ("nca", "nca_pair"), ("SimPO", "simpo")],
)
def test_an_unknown_loss_is_answered_with_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        find_loss(wrong)


def test_an_unknown_loss_that_is_near_to_none() -> None:
    with pytest.raises(UsageError) as caught:
        find_loss("qqqq")
    assert "did you mean" not in str(caught.value)
    assert "sigmoid, hinge" in caught.value.expected


TRL_DPO_LOSSES = (
    "sigmoid",
    "hinge",
    "ipo",
    "sigmoid_norm",
    "robust",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
)


def trl_dpo_trainer(name: str, beta: float) -> tuple[Any, Any]:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x)
    stub = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[name],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=0.1,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    return trl.DPOTrainer, stub


def trl_dpo_coefficients(name: str, beta: float, point: LossPoint) -> Coefficients:
    """From TRL's `_compute_loss`, fed with per-token log-probs that add up to the point's."""
    trainer, stub = trl_dpo_trainer(name, beta)
    tokens = torch.tensor(np.concatenate([point.chosen_tokens, point.rejected_tokens]))
    sums = torch.tensor(np.concatenate([point.chosen_log_prob, point.rejected_log_prob]))
    longest = int(tokens.max())
    # One prompt token, then the response: position k of the shifted mask is response token k.
    scored = torch.arange(longest)[None, :] < tokens[:, None]
    completion_mask = torch.cat([torch.zeros(len(tokens), 1, dtype=torch.bool), scored], 1).long()
    log_probs = torch.where(scored, (sums / tokens)[:, None], 0.0).requires_grad_(True)
    outputs = SimpleNamespace(
        log_probs=log_probs,
        entropy=torch.zeros_like(log_probs),
        mean_logits=torch.zeros_like(log_probs),
        is_top1=torch.zeros_like(log_probs, dtype=torch.bool),
    )
    inputs = {
        "input_ids": torch.zeros_like(completion_mask),
        "attention_mask": torch.ones_like(completion_mask),
        "completion_mask": completion_mask,
        "ref_chosen_logps": torch.tensor(point.chosen_ref_log_prob),
        "ref_rejected_logps": torch.tensor(point.rejected_ref_log_prob),
    }
    loss = trainer._compute_loss(stub, lambda **_: outputs, inputs, False)
    (grad,) = torch.autograd.grad(loss, log_probs)
    # The first response token's gradient is that of the sum; TRL averages over the pairs.
    chosen, rejected = (grad[:, 0] * len(point.chosen_tokens)).numpy().reshape(2, -1)
    return Coefficients(-chosen, rejected)


@pytest.mark.parametrize("at_reference", [False, True], ids=["drifted", "at reference"])
@pytest.mark.parametrize("name", TRL_DPO_LOSSES)
def test_coefficients_are_those_of_trls_dpo_trainer(name: str, at_reference: bool) -> None:
    point = seeded_point(at_reference, seed=1)
    expected = trl_dpo_coefficients(name, 0.1, point)
    actual = loss_coefficients(LossSettings(name, 0.1), point)
    assert_coefficients(actual, expected, rtol=FLOAT64_RTOL, atol=FLOAT64_ATOL)


def trl_experimental(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "APIs here are unstable"
        return pytest.importorskip(f"trl.experimental.{module}", reason=f"TRL has no {module}")


def trl_cpo_loss(loss_type: str, beta: float) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    cpo = trl_experimental("cpo")
    stub = SimpleNamespace(
        alpha=0.0,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
        loss_type=loss_type,
        simpo_gamma=cpo.CPOConfig.__dataclass_fields__["simpo_gamma"].default,
        beta=beta,
        label_smoothing=0.0,
    )
    return lambda chosen, rejected: cpo.CPOTrainer.cpo_loss(stub, chosen, rejected)[0]


def test_simpo_is_trls_cpo_loss_of_averaged_log_probs() -> None:
    point = seeded_point(at_reference=True, seed=2)
    trl_loss = trl_cpo_loss("simpo", 2.0)
    expected = autograd_coefficients(lambda pairs: trl_loss(pairs.z_c / pairs.n_c, pairs.z_r / pairs.n_r), point)
    actual = loss_coefficients(LossSettings("simpo", 2.0), point)
    assert_coefficients(actual, expected, rtol=FLOAT64_RTOL, atol=FLOAT64_ATOL)


def test_cpo_is_trls_cpo_loss_and_its_token_averaged_likelihood() -> None:
    cpo = trl_experimental("cpo")
    weight = cpo.CPOConfig.__dataclass_fields__["cpo_alpha"].default
    point = seeded_point(at_reference=True, seed=2)
    trl_loss = trl_cpo_loss("sigmoid", 0.1)
    expected = autograd_coefficients(
        lambda pairs: trl_loss(pairs.z_c, pairs.z_r) - weight * pairs.z_c / pairs.n_c, point
    )
    actual = loss_coefficients(LossSettings("cpo", 0.1), point)
    assert_coefficients(actual, expected, rtol=FLOAT64_RTOL, atol=FLOAT64_ATOL)


def test_orpo_is_trls_odds_ratio_loss_and_the_response_likelihood() -> None:
    orpo = trl_experimental("orpo")
    stub = SimpleNamespace(beta=0.1, accelerator=SimpleNamespace(device=torch.device("cpu")))

    def loss(pairs: Pairs) -> torch.Tensor:
        chosen, rejected = pairs.z_c / pairs.n_c, pairs.z_r / pairs.n_r
        # TRL returns beta log sigma(odds) and subtracts it.
        ratio: torch.Tensor = orpo.ORPOTrainer.odds_ratio_loss(stub, chosen, rejected)[0]
        return -chosen - ratio

    point = seeded_point(at_reference=True, seed=2)
    actual = loss_coefficients(LossSettings("orpo", 0.1), point)
    expected = autograd_coefficients(loss, point)
    assert_coefficients(actual, expected, rtol=FLOAT32_RTOL, atol=FLOAT64_ATOL)
