"""The coefficients against autograd of independent formulas, and against TRL's own loss code."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid as ls

from entangle_cli.analysis.losses.loss import Coefficients, LossPoint
from entangle_cli.analysis.losses.table import LOSSES, find_loss, loss_coefficients, loss_numbers
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import LossSettings

# float64 against float64, with one subtraction of log-probs of a few hundred nats.
FLOAT64_RTOL = 1e-11
# Coefficients are of order 1; below this they are rounding of a cancelled sum (NCA, SPPO, IPO).
FLOAT64_ATOL = 1e-13
# TRL's ORPO casts its log-probs to float32: 24 bits, twice subtracted.
FLOAT32_RTOL = 2e-5

BETAS = (0.01, 0.1, 2.5)
# Losses with exp(-r): a drift of 15 nats would put both sides out of float64's range.
DRIFT_NATS = {"forward_kl": 1.0, "alpha_divergence": 2.0}
# Losses that grow with exp(-r) or exp(-z/n); their formulas are infinite there.
EXPONENTIAL = {"orpo", "alphapo", "forward_kl", "alpha_divergence"}
SEEDED_PAIRS = 300


class Pairs(NamedTuple):
    """The arguments of a loss formula, as tensors [pairs]."""

    z_c: torch.Tensor
    z_r: torch.Tensor
    ref_c: torch.Tensor
    ref_r: torch.Tensor
    n_c: torch.Tensor
    n_r: torch.Tensor


def seeded_point(at_reference: bool, seed: int = 0, drift_nats: float = 15.0) -> LossPoint:
    generator = np.random.default_rng(seed)
    n_c = generator.integers(1, 200, SEEDED_PAIRS).astype(np.float64)
    n_r = generator.integers(1, 200, SEEDED_PAIRS).astype(np.float64)
    z_c = -n_c * generator.uniform(0.05, 4.0, SEEDED_PAIRS)
    z_r = -n_r * generator.uniform(0.05, 4.0, SEEDED_PAIRS)
    drift = 0.0 if at_reference else generator.normal(0.0, drift_nats, (2, SEEDED_PAIRS))
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
    """The losses from their papers, independent of the package."""
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
        case "cdpo":
            return -0.9 * ls(b * (r_c - r_r)) - 0.1 * ls(-b * (r_c - r_r))
        case "ipo_sum":
            return (r_c - r_r - 1 / (2 * b)) ** 2
        case "exo_pair":
            won, lost = ls(b * (r_c - r_r)), ls(-b * (r_c - r_r))
            return won.exp() * (won - math.log(0.999)) + lost.exp() * (lost - math.log(0.001))
        case "discopop":
            u = b * (r_c - r_r)
            # sigma(u / tau) exp(-u) in one exponential, because the factors exceed the range of float64.
            return -torch.sigmoid(-u / 0.05) * ls(u) + torch.exp(ls(u / 0.05) - u)
        case "rdpo":
            return -ls(b * (r_c - r_r) + 0.2 * (n_c - n_r))
        case "aot":
            return -ls(b * ((z_c - z_r).sort().values - (ref_c - ref_r).sort().values))
        case "aot_unpaired":
            return -ls(b * (r_c.sort().values - r_r.sort().values))
        case "alphapo":
            reward = [(1 - torch.exp(-0.25 * z / n)) / 0.25 for z, n in ((z_c, n_c), (z_r, n_r))]
            return -ls(b * (reward[0] - reward[1]) - 0.5)
        case "rrhf":
            return torch.relu(z_r / n_r - z_c / n_c) - z_c
        case "simper":
            return torch.exp(z_r / n_r) - torch.exp(z_c / n_c)
        case "sigmoid_sft":
            return -ls(b * (r_c - r_r)) - z_c / n_c
        case "slic_hf":
            return torch.relu(1 - z_c + z_r) - 0.1 * z_c
        case "apo_down":
            return torch.sigmoid(b * r_c) + 1 - torch.sigmoid(b * (r_c - r_r))
        case "kto":
            return 2 - torch.sigmoid(b * r_c) - torch.sigmoid(-b * r_r)
        case "cal_dpo":
            return -ls(r_c - r_r) + (r_c - 1 / (2 * b)) ** 2 + (r_r + 1 / (2 * b)) ** 2
        case "dpo_shift":
            return -ls(b * (r_c - 0.75 * r_r))
        case "forward_kl":
            return -ls(b * (torch.exp(-r_r) - torch.exp(-r_c)))
        case "js_divergence":
            return -ls(b * (ls(r_c) - ls(r_r)))
        case "alpha_divergence":
            return -ls(b * (torch.exp(-r_c / 2) - torch.exp(-r_r / 2)) / -0.5)
    raise AssertionError(name)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("at_reference", [False, True], ids=["drifted", "at reference"])
@pytest.mark.parametrize("name", LOSSES)
def test_coefficients_are_the_derivatives_of_the_loss(name: str, at_reference: bool, beta: float) -> None:
    point = seeded_point(at_reference, drift_nats=DRIFT_NATS.get(name, 15.0))
    expected = autograd_coefficients(lambda pairs: formula(name, pairs, beta), point)
    actual = loss_coefficients(LossSettings(name, beta), point)
    assert_coefficients(actual, expected, rtol=FLOAT64_RTOL, atol=FLOAT64_ATOL)
    assert actual.chosen.dtype == actual.rejected.dtype == np.float64
    assert np.any(actual.rejected != 0)


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
    assert all(option.low <= option.default <= option.high and option.meaning for option in loss.options.values())
    assert all(option in loss.formula or option == "label_smoothing" for option in loss.options)
    assert loss.uses_beta == ("beta" in loss.formula or "u" in loss.formula.replace("sum", ""))
    assert find_loss(name) is loss


def single(z_c: float, z_r: float, n_c: float = 1, n_r: float = 1) -> LossPoint:
    """One pair. The reference assigns probability 1 to both responses."""
    arrays = (np.array([float(value)]) for value in (z_c, z_r, 0.0, 0.0, n_c, n_r))
    return LossPoint(*arrays)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in EXPONENTIAL])
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

    # Probabilities outside the range of float64.
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
def test_an_unknown_loss_suggests_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        find_loss(wrong)


def test_an_unknown_loss_without_a_near_name() -> None:
    with pytest.raises(UsageError) as caught:
        find_loss("qqqq")
    assert "did you mean" not in str(caught.value)
    assert "sigmoid, cdpo" in caught.value.expected


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
    "apo_down",
    "exo_pair",
    "discopop",
    "aot",
    "aot_unpaired",
    "forward_kl",
    "js_divergence",
    "alpha_divergence",
)
# TRL holds EXO's label smoothing in float32, and sums per-token log-probs of up to 800 nats in float32 for the other.
TRL_TOLERANCES = {"exo_pair": (FLOAT32_RTOL, 1e-8), "alpha_divergence": (5e-4, 1e-6)}
TRL_OPTIONS = {
    "exo_pair": {"label_smoothing": 0.1},
    "aot": {"label_smoothing": 0.1},
    "aot_unpaired": {"label_smoothing": 0.1},
}


def trl_dpo_trainer(name: str, beta: float) -> tuple[Any, Any]:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x)
    is_divergence = name in {"forward_kl", "js_divergence", "alpha_divergence"}
    stub = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type=name if is_divergence else "reverse_kl",
        f_alpha_divergence_coef=0.5,
        loss_types=["sigmoid" if is_divergence else name],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=0.1,
        use_weighting=False,
        args=SimpleNamespace(discopop_tau=0.05),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    return trl.DPOTrainer, stub


def trl_dpo_coefficients(
    name: str, beta: float, point: LossPoint, loss_types: Sequence[str] | None = None
) -> Coefficients:
    """Coefficients from TRL's `_compute_loss`, with per-token log-probs that add up to those of the point."""
    trainer, stub = trl_dpo_trainer(name, beta)
    if loss_types is not None:
        stub.loss_types, stub.loss_weights = list(loss_types), [1.0] * len(loss_types)
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
def test_coefficients_match_trls_dpo_trainer(name: str, at_reference: bool) -> None:
    point = seeded_point(at_reference, seed=1, drift_nats=DRIFT_NATS.get(name, 15.0))
    if name == "alpha_divergence":
        # TRL does not support float64 for this loss.
        point = LossPoint(*(getattr(point, field.name).astype(np.float32) for field in dataclasses.fields(point)))
    expected = trl_dpo_coefficients(name, 0.1, point)
    actual = loss_coefficients(LossSettings(name, 0.1, TRL_OPTIONS.get(name, {})), point)
    rtol, atol = TRL_TOLERANCES.get(name, (FLOAT64_RTOL, FLOAT64_ATOL))
    assert_coefficients(actual, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", ["kto", "apo_zero"])
def test_unpaired_losses_are_two_times_trls_mean_over_answers(name: str) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x)
    z0, weights = 1.25, {"chosen_weight": 1.5, "rejected_weight": 0.5}
    stub = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        calculate_KL=name == "kto",
        loss_type="kto" if name == "kto" else "apo_zero_unpaired",
        beta=0.1,
        desirable_weight=weights["chosen_weight"] if name == "kto" else 1.0,
        undesirable_weight=weights["rejected_weight"] if name == "kto" else 1.0,
        # The batch's KL estimate: policy minus reference of mismatched answers.
        _compute_kl_logps=lambda model, batch: torch.full((4,), z0),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    point = seeded_point(at_reference=False, seed=3)
    pairs = len(point.chosen_tokens)
    log_probs = torch.tensor(np.concatenate([point.chosen_log_prob, point.rejected_log_prob]))[:, None]
    log_probs = log_probs.requires_grad_(True)
    outputs = SimpleNamespace(
        log_probs=log_probs, entropy=torch.zeros_like(log_probs), mean_logits=torch.zeros_like(log_probs)
    )
    mask = torch.tensor([[0, 1]]).expand(2 * pairs, 2)
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "label": torch.arange(2 * pairs) < pairs,
        "ref_logps": torch.tensor(np.concatenate([point.chosen_ref_log_prob, point.rejected_ref_log_prob])),
        "ref_KL_logps": torch.zeros(4),
    }
    loss = trl.KTOTrainer._compute_loss(stub, lambda **_: outputs, inputs, False)
    (grad,) = torch.autograd.grad(loss, log_probs)
    # The mean is over 2 n answers; two times this mean is the mean over n pairs.
    chosen, rejected = (2 * pairs * grad[:, 0]).numpy().reshape(2, -1)
    options = {"z0": z0, **weights} if name == "kto" else {}
    actual = loss_coefficients(LossSettings(name, 0.1, options), point)
    assert_coefficients(actual, Coefficients(-chosen, rejected), rtol=FLOAT64_RTOL, atol=FLOAT64_ATOL)


def trl_experimental(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "APIs here are unstable"
        return pytest.importorskip(f"trl.experimental.{module}", reason=f"TRL has no {module}")


def trl_cpo_loss(
    loss_type: str, beta: float, alpha: float = 0.0, label_smoothing: float = 0.0
) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    cpo = trl_experimental("cpo")
    stub = SimpleNamespace(
        alpha=alpha,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
        loss_type=loss_type,
        simpo_gamma=cpo.CPOConfig.__dataclass_fields__["simpo_gamma"].default,
        beta=beta,
        label_smoothing=label_smoothing,
    )
    return lambda chosen, rejected: cpo.CPOTrainer.cpo_loss(stub, chosen, rejected)[0]


def test_simpo_is_trls_cpo_loss_of_averaged_log_probs() -> None:
    point = seeded_point(at_reference=True, seed=2)
    trl_loss = trl_cpo_loss("simpo", 2.0)
    expected = autograd_coefficients(lambda pairs: trl_loss(pairs.z_c / pairs.n_c, pairs.z_r / pairs.n_r), point)
    actual = loss_coefficients(LossSettings("simpo", 2.0), point)
    assert_coefficients(actual, expected, rtol=FLOAT64_RTOL, atol=FLOAT64_ATOL)


def test_alphapo_is_trls_cpo_loss_with_its_reward() -> None:
    point = seeded_point(at_reference=True, seed=2)
    trl_loss = trl_cpo_loss("simpo", 2.0, alpha=0.25)
    expected = autograd_coefficients(lambda pairs: trl_loss(pairs.z_c / pairs.n_c, pairs.z_r / pairs.n_r), point)
    actual = loss_coefficients(LossSettings("alphapo", 2.0), point)
    assert_coefficients(actual, expected, rtol=FLOAT64_RTOL, atol=FLOAT64_ATOL)


def test_conservative_dpo_is_trls_label_smoothing_of_log_ratios() -> None:
    point = seeded_point(at_reference=False, seed=2)
    trl_loss = trl_cpo_loss("sigmoid", 0.1, label_smoothing=0.2)
    expected = autograd_coefficients(lambda pairs: trl_loss(pairs.z_c - pairs.ref_c, pairs.z_r - pairs.ref_r), point)
    actual = loss_coefficients(LossSettings("cdpo", 0.1, {"label_smoothing": 0.2}), point)
    assert_coefficients(actual, expected, rtol=FLOAT64_RTOL, atol=FLOAT64_ATOL)


def test_dpo_with_likelihood_is_trls_sum_of_both_losses_where_all_answers_have_one_length() -> None:
    point = seeded_point(at_reference=False, seed=1)
    point = dataclasses.replace(point, chosen_tokens=np.full(SEEDED_PAIRS, 60.0))
    expected = trl_dpo_coefficients("sigmoid", 0.1, point, ("sigmoid", "sft"))
    actual = loss_coefficients(LossSettings("sigmoid_sft", 0.1), point)
    assert_coefficients(actual, expected, rtol=FLOAT64_RTOL, atol=FLOAT64_ATOL)


def test_every_option_changes_the_coefficients() -> None:
    point = seeded_point(at_reference=False, drift_nats=1.0)
    for name, loss in LOSSES.items():
        before = np.stack(loss_coefficients(LossSettings(name), point))
        for option, row in loss.options.items():
            value = min(row.default * 30 + 0.01, row.high)
            after = np.stack(loss_coefficients(LossSettings(name, options={option: value}), point))
            assert not np.array_equal(before, after), (name, option)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simpo", {"gama": 1.0}, "did you mean 'gamma'"),
        ("sigmoid", {"gamma": 1.0}, "none except beta"),
        ("simper", {"gamma": 1.0}, "an option of this loss: none"),
        ("robust", {"label_smoothing": 0.5}, "from 0 to 0.49"),
        ("dpop", {"penalty": -1.0}, "of at least 0"),
        ("simpo", {"gamma": math.nan}, "a finite number"),
        ("alphapo", {"alpha": 0.0}, "which would be SimPO"),
        ("alpha_divergence", {"alpha": 1.0}, "not 1"),
    ],
)
def test_options_of_other_losses_or_out_of_range_are_refused(
    name: str, options: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        loss_numbers(LossSettings(name, options=options))


def test_margin_losses_agree_with_dpo_up_to_the_sign() -> None:
    """Equal coefficients of any size give the same movement."""
    point = seeded_point(at_reference=False)
    for name in ("cdpo", "robust", "hinge", "ipo_sum", "exo_pair", "discopop", "rdpo", "aot"):
        coefficients = loss_coefficients(LossSettings(name), point)
        np.testing.assert_array_equal(coefficients.chosen, coefficients.rejected)


def test_discopop_goes_the_wrong_way_at_the_reference() -> None:
    """The coefficient is -0.784 beta at u = 0: the first step from policy = reference lowers the margin."""
    coefficients = loss_coefficients(LossSettings("discopop", 0.1), seeded_point(at_reference=True))
    np.testing.assert_allclose(coefficients.chosen, 0.1 * -0.7843, rtol=1e-4)


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
