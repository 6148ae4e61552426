"""Which rule accounts for each parameter: found by a probe, and checked there against ordinary autograd."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum

import torch
from torch import Tensor, nn

from entangle_cli.engine.batch import make_batch
from entangle_cli.engine.gradient_pass import HeadNotFound, UnrecognisedUse, record_forward
from entangle_cli.engine.memory import KeptBytes
from entangle_cli.engine.pair_products import PassResult, measure_batch
from entangle_cli.engine.per_response import response_log_prob, squared_gradient_norms
from entangle_cli.engine.recorder import Recorder
from entangle_cli.engine.unembedding import Unembedding
from entangle_cli.engine.uses import Use, UseKind
from entangle_cli.errors import ModelError
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse


class Rule(StrEnum):
    """How a parameter's products are formed."""

    LINEAR = "linear"
    ROUTED = "expert"
    LOOKUP = "embedding"
    VECTOR = "scale or bias"
    UNEMBEDDING = "unembedding"
    TIED = "tied embedding and unembedding"
    UNUSED = "not used by the probe"
    SLOW = "slow: one backward a response"


AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 1e-1}
"""How far a parameter's products on the probe may be from autograd's, relative to its own norms.

Wide enough for rounding, far below what a missed or doubled use makes.
"""


CAUSAL_AGREEMENT = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""How far a causal model's log-probs in parts may be from the whole, relative to it: only their rounding differs.

Float64 models compute norms, rotations and scans in float32. In bfloat16 a log-prob near 10 nats has steps of 0.06
nats, and kernels of other lengths round otherwise: 1.3e-3 was seen. An encoder is off by several nats.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Every parameter asked for, under exactly one rule."""

    rules: Mapping[str, Rule]
    numel: Mapping[str, int]
    reasons: Mapping[str, str]
    """Why a parameter takes the slow way."""
    bytes_per_token: int = 0
    """What a batch keeps for its backward pass, for each of its tokens; 0 if unknown."""
    repeated: Mapping[tuple[str, int | None], int] = field(default_factory=dict)
    """Number of uses of each parameter, or slice of one, that the probe saw used more than once."""
    whole_model_slow: bool = False
    """The model's logits are not its unembedding of hidden states: everything goes through its own logits."""

    @property
    def slow(self) -> frozenset[str]:
        """Names of the parameters that take the slow way."""
        return frozenset(name for name, rule in self.rules.items() if rule is Rule.SLOW)

    def with_slow(self, functions: Mapping[str, str]) -> Plan:
        """The plan with more parameters on the slow way, because of the functions that use them."""
        rules = {name: Rule.SLOW if name in functions else rule for name, rule in self.rules.items()}
        reasons = {name: f"used by {function}, which no rule covers" for name, function in functions.items()}
        return replace(self, rules=rules, reasons={**self.reasons, **reasons})

    def numel_by_rule(self) -> dict[Rule, int]:
        """Number of parameter elements under each rule in use."""
        counts: Counter[Rule] = Counter()
        for name, rule in self.rules.items():
            counts[rule] += self.numel[name]
        return dict(counts)


def make_plan(model: nn.Module, head: Unembedding, parameters: Mapping[str, nn.Parameter], dtype: torch.dtype) -> Plan:
    """Find the rule of every parameter on a short made-up pair, and move what disagrees with autograd to the slow way.

    Args:
        model: prepared (see `model.prepared`).
        dtype: what the model computes in; sets the agreement demanded.
    Raises:
        ModelError: the model's log-probs on the probe are not finite, depend on later tokens, or have no gradient.
    Cost: a few forwards and two backwards of a few tokens, memory of the largest single parameter's gradient.
    """
    device = head.weight_VD.device
    probe = probe_pair(head.weight_VD.shape[0])
    batch = make_batch([probe], device)
    numel = {name: parameter.numel() for name, parameter in parameters.items()}
    names = {id(parameter): name for name, parameter in parameters.items()}
    try:
        with KeptBytes(model) as kept:
            recorder, _ = record_forward(model, head, batch, names, _ignore, kept.add)
    except HeadNotFound:
        return _all_slow(numel, "the unembedding is not applied as a linear layer")
    rules, reasons = _rules(recorder, head, parameters)
    plan = Plan(
        rules,
        numel,
        reasons,
        bytes_per_token=kept.total // batch.ids_BT.numel(),
        repeated={key: count for key, count in recorder.num_uses.items() if count > 1},
    )
    watched = {key: name for key, name in names.items() if name not in plan.slow}
    with _refused_without_gradient(model):
        try:
            measured = measure_batch(model, head, batch, watched)
        except UnrecognisedUse as unrecognised:
            raise AssertionError("a forward pass differs from the one before it") from unrecognised
        return _checked(plan, model, measured, probe, parameters, dtype)


@contextmanager
def _refused_without_gradient(model: nn.Module) -> Iterator[None]:
    """Refuse a model whose backward passes through a kernel that has none: autograd only warns, and goes on wrongly."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        message = str(warning.message)
        if "autograd kernel was not registered" in message:
            raise ModelError(
                f"{type(model).__name__} computes through {message.split(': ')[0]}, which has no gradient",
                "layers that autograd can differentiate",
                "load the weights without quantisation or special kernels, or on another device",
            )


def probe_pair(vocabulary: int) -> TokenizedPair:
    """Three shared tokens, then different ones: short, and rows of different length so that padding takes part."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (14,), generator=generator).tolist()
    chosen = TokenizedResponse((*ids[:3], *ids[3:9]), first_scored=3)
    rejected = TokenizedResponse((*ids[:3], *ids[9:14]), first_scored=3)
    return TokenizedPair(chosen, rejected)


def _all_slow(numel: Mapping[str, int], reason: str) -> Plan:
    return Plan(dict.fromkeys(numel, Rule.SLOW), numel, dict.fromkeys(numel, reason), whole_model_slow=True)


def _ignore(use: Use, gradient: Tensor) -> None:
    """The probe's first forward has no backward."""


def _rules(
    recorder: Recorder, head: Unembedding, parameters: Mapping[str, nn.Parameter]
) -> tuple[dict[str, Rule], dict[str, str]]:
    rules: dict[str, Rule] = {}
    reasons: dict[str, str] = {}
    for name, parameter in parameters.items():
        kinds = set(recorder.kinds.get(name, []))
        if parameter is head.weight_VD or parameter is head.bias_V:
            kinds.add(UseKind.UNEMBEDDING)
        function = recorder.unrecognised.get(name)
        rule = Rule.SLOW if function else RULE_OF_KINDS.get(frozenset(kinds), Rule.SLOW)
        rules[name] = rule
        if rule is Rule.SLOW:
            reasons[name] = (
                f"used by {function}, which no rule covers"
                if function
                else "used in ways whose cross terms no rule covers: " + ", ".join(sorted(kinds))
            )
    return rules, reasons


RULE_OF_KINDS = {
    frozenset(): Rule.UNUSED,
    frozenset({UseKind.LINEAR}): Rule.LINEAR,
    frozenset({UseKind.ROUTED}): Rule.ROUTED,
    frozenset({UseKind.LOOKUP}): Rule.LOOKUP,
    frozenset({UseKind.VECTOR}): Rule.VECTOR,
    frozenset({UseKind.UNEMBEDDING}): Rule.UNEMBEDDING,
    frozenset({UseKind.UNEMBEDDING, UseKind.LOOKUP}): Rule.TIED,
}


def _checked(
    plan: Plan,
    model: nn.Module,
    measured: PassResult,
    probe: TokenizedPair,
    parameters: Mapping[str, nn.Parameter],
    dtype: torch.dtype,
) -> Plan:
    """The plan after comparing the probe's log-probs and products with autograd's."""
    tolerance = AGREEMENT[dtype]
    reference_log_probs = [_log_prob(model, side) for side in (probe.chosen, probe.rejected)]
    if not all(map(math.isfinite, reference_log_probs)):
        raise ModelError(
            f"the model's log-probs on a short probe are {reference_log_probs}",
            "finite numbers",
            "check the checkpoint for NaN or infinite weights, or choose a wider --dtype",
        )
    _refuse_seeing_the_future(model, probe.chosen, reference_log_probs[0], CAUSAL_AGREEMENT[dtype])
    for ours, reference in zip(measured.log_probs_B.tolist(), reference_log_probs, strict=True):
        if abs(ours - reference) > tolerance * max(1.0, abs(reference)):
            return _all_slow(plan.numel, "the model's logits are not its unembedding of the last hidden states")
    by_autograd = _reference_norms(model, probe, parameters)
    # A gradient that is zero in theory (a key's bias) is rounding noise, which is small against the whole.
    noise = ZERO_SHARE * tolerance**2 * sum(by_autograd.values())
    disagreeing = {}
    for name in parameters.keys() - plan.slow:
        found = measured.products.get(name)
        chosen, rejected, inner = (0.0, 0.0, 0.0) if found is None else tuple(found[:, 0].tolist())
        ours = chosen + REJECTED_WEIGHT**2 * rejected + 2 * REJECTED_WEIGHT * inner
        # The two sides may cancel in the sum, whose rounding is that of its parts.
        scale = max(by_autograd[name], chosen, rejected) + noise
        if abs(ours - by_autograd[name]) > tolerance * scale:
            disagreeing[name] = "an unseen function: the probe disagrees with autograd"
    return plan.with_slow(disagreeing) if disagreeing else plan


def _refuse_seeing_the_future(
    model: nn.Module, response: TokenizedResponse, whole_log_prob: float, tolerance: float
) -> None:
    """Refuse a model whose predictions depend on later tokens, as heads on bidirectional encoders do.

    In a causal model the log-prob of a response is that of its start, read without the rest, plus that of the rest.
    """
    middle = (response.first_scored + len(response.ids)) // 2
    start = TokenizedResponse(response.ids[:middle], response.first_scored)
    rest = TokenizedResponse(response.ids, middle)
    in_parts = _log_prob(model, start) + _log_prob(model, rest)
    if abs(in_parts - whole_log_prob) > tolerance * max(1.0, abs(whole_log_prob)):
        raise ModelError(
            f"{type(model).__name__}: the probability of a token depends on the tokens after it",
            "a causal language model",
            "name the policy that will be trained, or set is_decoder in config.json if it is meant to be one",
        )


def _log_prob(model: nn.Module, response: TokenizedResponse) -> float:
    """A response's log-prob. Not under no_grad, where kernels for quantised weights turn to inference for good."""
    with torch.enable_grad():
        return float(response_log_prob(model, response).detach())


ZERO_SHARE = 16.0
"""Of the square of the agreement: squared norms that are so small a share of the whole are taken for rounding."""

REJECTED_WEIGHT = 1.5
"""Weight of the rejected side in the probe's check: with 1 an error might hide in another of the three products."""


def _reference_norms(
    model: nn.Module, probe: TokenizedPair, parameters: Mapping[str, nn.Parameter]
) -> dict[str, float]:
    """Per parameter |g_c + w g_r|^2 = A + w^2 B + 2 w P by autograd: one backward, and no gradient is kept."""
    return squared_gradient_norms(
        lambda: response_log_prob(model, probe.chosen) + REJECTED_WEIGHT * response_log_prob(model, probe.rejected),
        parameters,
    )
