"""Finds the rule for each parameter with a probe, and checks the result against autograd."""

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
from entangle_cli.engine.expert_tokens import grouped_experts
from entangle_cli.engine.gradient_pass import HeadNotFound, UnrecognisedUse, record_forward
from entangle_cli.engine.memory import KeptBytes
from entangle_cli.engine.model import most_positions
from entangle_cli.engine.pair_products import PassResult, measure_batch
from entangle_cli.engine.per_response import response_log_prob, squared_gradient_norms
from entangle_cli.engine.recorder import Recorder
from entangle_cli.engine.unembedding import Unembedding
from entangle_cli.engine.uses import Use, UseKind
from entangle_cli.errors import ModelError
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse


class Rule(StrEnum):
    """How a parameter's products are computed."""

    LINEAR = "linear"
    ROUTED = "expert"
    LOOKUP = "embedding"
    VECTOR = "scale or bias"
    UNEMBEDDING = "unembedding"
    TIED = "tied embedding and unembedding"
    UNUSED = "not used by the probe"
    SLOW = "slow: one backward pass per response"


AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 1e-1}
"""Largest difference between a parameter's products on the probe and autograd's, relative to its own norms.

It exceeds rounding errors and is far below the effect of a missed or doubled use.
"""


CAUSAL_AGREEMENT = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Largest relative difference between a causal model's log-prob in two parts and in one. Only rounding may differ.

Float64 models compute norms, rotations and scans in float32. In bfloat16 a log-prob near 10 nats has steps of 0.06
nats, and rounding depends on the sequence length: 1.3e-3 was seen. An encoder is off by several nats.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Exactly one rule for every requested parameter."""

    rules: Mapping[str, Rule]
    numel: Mapping[str, int]
    reasons: Mapping[str, str]
    """Why a parameter needs the slow method."""
    bytes_per_token: int = 0
    """Bytes per token that a batch keeps for its backward pass; 0 if unknown."""
    repeated: Mapping[tuple[str, int | None], int] = field(default_factory=dict)
    """Number of uses of each parameter or slice that the probe used more than once."""
    whole_model_slow: bool = False
    """The model's logits are not the unembedding of its hidden states, so all log-probs use the model's own logits."""

    @property
    def slow(self) -> frozenset[str]:
        """Names of the parameters that need the slow method."""
        return frozenset(name for name, rule in self.rules.items() if rule is Rule.SLOW)

    def with_slow(self, functions: Mapping[str, str]) -> Plan:
        """The plan with more slow parameters.

        Args:
            functions: parameter name to the function that uses it without a rule.
        """
        rules = {name: Rule.SLOW if name in functions else rule for name, rule in self.rules.items()}
        reasons = {name: f"used by {function}, which no rule covers" for name, function in functions.items()}
        return replace(self, rules=rules, reasons={**self.reasons, **reasons})

    def numel_by_rule(self) -> dict[Rule, int]:
        """Number of parameter elements per rule."""
        counts: Counter[Rule] = Counter()
        for name, rule in self.rules.items():
            counts[rule] += self.numel[name]
        return dict(counts)


def make_plan(model: nn.Module, head: Unembedding, parameters: Mapping[str, nn.Parameter], dtype: torch.dtype) -> Plan:
    """Find the rule of every parameter on a short random pair. Parameters that disagree with autograd become slow.

    Args:
        model: prepared (see `model.prepared`).
        dtype: dtype of the model's computation; sets the tolerance.
    Raises:
        ModelError: the model's log-probs on the probe are not finite, depend on later tokens, or have no gradient.
    Cost: a few forward and two backward passes on a few tokens; memory of the largest single parameter's gradient.
    """
    device = head.weight_VD.device
    probe = probe_pair(head.weight_VD.shape[0])
    batch = make_batch([probe], device, most_positions(model))
    numel = {name: parameter.numel() for name, parameter in parameters.items()}
    names = {id(parameter): name for name, parameter in parameters.items()}
    try:
        with KeptBytes(model) as kept, grouped_experts(model):
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
    """Refuse a model with a kernel that has no backward. Autograd only warns and gives wrong gradients."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        message = str(warning.message)
        if "autograd kernel was not registered" in message:
            raise ModelError(
                f"{type(model).__name__} uses {message.split(': ')[0]}, which has no gradient",
                "layers that autograd can differentiate",
                "load the weights without quantisation or special kernels, or use another device",
            )


def probe_pair(vocabulary: int) -> TokenizedPair:
    """A short pair: three shared tokens, then different ones. The rows differ in length to cover padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (14,), generator=generator).tolist()
    chosen = TokenizedResponse((*ids[:3], *ids[3:9]), first_scored=3)
    rejected = TokenizedResponse((*ids[:3], *ids[9:14]), first_scored=3)
    return TokenizedPair(chosen, rejected)


def _all_slow(numel: Mapping[str, int], reason: str) -> Plan:
    return Plan(dict.fromkeys(numel, Rule.SLOW), numel, dict.fromkeys(numel, reason), whole_model_slow=True)


def _ignore(use: Use, gradient: Tensor) -> None:
    """Do nothing: the probe's first forward pass has no backward pass."""


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
                else "used in several ways, and no rule covers their cross terms: " + ", ".join(sorted(kinds))
            )
    return rules, reasons


RULE_OF_KINDS = {
    frozenset(): Rule.UNUSED,
    frozenset({UseKind.LINEAR}): Rule.LINEAR,
    frozenset({UseKind.ROUTED}): Rule.ROUTED,
    frozenset({UseKind.GROUPED}): Rule.ROUTED,
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
    """Compare the probe's log-probs and products with autograd's, and return the corrected plan."""
    tolerance = AGREEMENT[dtype]
    reference_log_probs = [_log_prob(model, side) for side in (probe.chosen, probe.rejected)]
    if not all(map(math.isfinite, reference_log_probs)):
        raise ModelError(
            f"the model's log-probs on a short test input are {reference_log_probs}",
            "finite numbers",
            "check the checkpoint for NaN or infinite weights, or use a wider --dtype",
        )
    _refuse_seeing_the_future(model, probe.chosen, reference_log_probs[0], CAUSAL_AGREEMENT[dtype])
    for ours, reference in zip(measured.log_probs_B.tolist(), reference_log_probs, strict=True):
        if abs(ours - reference) > tolerance * max(1.0, abs(reference)):
            return _all_slow(plan.numel, "the model's logits are not the unembedding of its last hidden states")
    by_autograd = _reference_norms(model, probe, parameters)
    # A gradient that is zero in theory (a key's bias) is rounding noise, small compared with the whole gradient.
    noise = ZERO_SHARE * tolerance**2 * sum(by_autograd.values())
    disagreeing = {}
    for name in parameters.keys() - plan.slow:
        products = measured.products.get(name)
        chosen, rejected, inner = (0.0, 0.0, 0.0) if products is None else tuple(products[:, 0].tolist())
        ours = chosen + REJECTED_WEIGHT**2 * rejected + 2 * REJECTED_WEIGHT * inner
        # The two sides may cancel in the sum. Its rounding error is that of its terms.
        scale = max(by_autograd[name], chosen, rejected) + noise
        if abs(ours - by_autograd[name]) > tolerance * scale:
            disagreeing[name] = "an unknown function (the probe disagrees with autograd)"
    return plan.with_slow(disagreeing) if disagreeing else plan


def _refuse_seeing_the_future(
    model: nn.Module, response: TokenizedResponse, whole_log_prob: float, tolerance: float
) -> None:
    """Refuse a model whose predictions depend on later tokens, such as a head on a bidirectional encoder.

    In a causal model, the log-prob of a response equals the log-prob of its start alone plus that of the rest.
    """
    middle = (response.first_scored + len(response.ids)) // 2
    start = TokenizedResponse(response.ids[:middle], response.first_scored)
    rest = TokenizedResponse(response.ids, middle)
    in_parts = _log_prob(model, start) + _log_prob(model, rest)
    if abs(in_parts - whole_log_prob) > tolerance * max(1.0, abs(whole_log_prob)):
        raise ModelError(
            f"{type(model).__name__}: the probability of a token depends on the tokens after it",
            "a causal language model",
            "use the policy that you will train as MODEL; if this is it, set is_decoder in config.json",
        )


def _log_prob(model: nn.Module, response: TokenizedResponse) -> float:
    """A response's log-prob. Under no_grad, kernels for quantised weights would switch to inference permanently."""
    with torch.enable_grad():
        return float(response_log_prob(model, response).detach())


ZERO_SHARE = 16.0
"""Squared norms below this multiple of the squared tolerance, relative to the total, count as rounding errors."""

REJECTED_WEIGHT = 1.5
"""Weight of the rejected side in the probe's check. With 1, errors in the three products could cancel."""


def _reference_norms(
    model: nn.Module, probe: TokenizedPair, parameters: Mapping[str, nn.Parameter]
) -> dict[str, float]:
    """|g_c + w g_r|^2 = A + w^2 B + 2 w P per parameter, by autograd in one backward pass. No gradient is kept."""
    return squared_gradient_norms(
        lambda: response_log_prob(model, probe.chosen) + REJECTED_WEIGHT * response_log_prob(model, probe.rejected),
        parameters,
    )
