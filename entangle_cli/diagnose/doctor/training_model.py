"""What a file's training would do with the loaded model: noise of dropout, and steps that rounding eats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from entangle_cli.data.checkpoint import Checkpoint
from entangle_cli.data.trainer_files.keys import Keys
from entangle_cli.diagnose.doctor.model import plain_log_probs
from entangle_cli.records.finding import Finding, Severity, finding
from entangle_cli.records.measurement import TokenizedResponse
from entangle_cli.records.training_setup import TrainingSetup

SAMPLED_WEIGHTS = 1_000_000
LOST_SHARE = 0.5
"""Share of the weights that a step must change at least."""
NOTHING = 1e-3
"""Share of the weights below which a training changes next to nothing."""
ORDINARY_STEP = math.sqrt(0.1 / 1.9)
"""An ordinary step of AdamW over the learning rate: the root mean square of its momentum (beta1 = 0.9) on gradients of
noise. The first step is the learning rate itself."""
NOISE = 1e-3
"""Nats per token by which two passes may differ without dropout."""
NOISE_TOKENS = 16
FLOAT32_KEEPERS = ("deepspeed", "fsdp", "fsdp_config")
"""Keys of frameworks that keep float32 copies of bfloat16 weights."""


def training_findings(checkpoint: Checkpoint, setup: TrainingSetup) -> Iterator[Finding]:
    """All findings on a file's training with a loaded model."""
    yield from _dropout(checkpoint, setup)
    if not setup.learning_rate or any(key in setup.given for key in FLOAT32_KEEPERS):
        return
    keys = Keys(setup.trainer, setup.given)
    is_quantised = keys.flag("load_in_4bit") or keys.flag("load_in_8bit")
    if setup.trainer == "TRL" and setup.lora is not None and is_quantised:
        yield from _lost_steps_of_a_quantised_base(checkpoint, setup.learning_rate)
    elif setup.lora is None and setup.adapter is None and _dtype_of_weights(checkpoint, setup) == "bfloat16":
        yield from lost_steps(checkpoint, setup.learning_rate)


def _dtype_of_weights(checkpoint: Checkpoint, setup: TrainingSetup) -> str | None:
    """The dtype in which the trainer loads the weights; None if unknown."""
    if "torch_dtype" in setup.unknown:
        return "float32"  # TRL's default, because it does not read this key
    return setup.dtype or checkpoint.stored_dtype


def _dropout(checkpoint: Checkpoint, setup: TrainingSetup) -> Iterator[Finding]:
    keys = Keys(setup.trainer, setup.given)
    is_kept = keys.has("disable_dropout") and not keys.flag("disable_dropout")
    if is_kept and setup.lora is not None and setup.lora.dropout:
        yield finding(
            "D-DROPOUT",
            f"disable_dropout: false, and the adapter has a dropout of {setup.lora.dropout:g}",
            "remove disable_dropout: false",
        )
        return
    noise = training_noise(checkpoint, without_dropout_modules=not is_kept)
    if noise <= NOISE:
        return
    found = f"two passes over a text in training mode differ by {noise:.2g} nats per token"
    if is_kept:
        yield finding("D-DROPOUT", f"disable_dropout: false, and {found}", "remove disable_dropout: false")
        return
    yield finding(
        "D-DROPOUT",
        f"{found}: trainers disable layers of the type Dropout, and not dropout inside attention or functions",
        "set attention_dropout and dropout to 0 in the model's config.json",
    )


def training_noise(checkpoint: Checkpoint, *, without_dropout_modules: bool) -> float:
    """The difference of two passes over one text in training mode, nats per token.

    Args:
        without_dropout_modules: disable what trainers disable, by `trl.trainer.utils.disable_dropout_in_model`.
    """
    model, size = checkpoint.model, checkpoint.num_embeddings or NOISE_TOKENS
    row = TokenizedResponse(tuple(token % size for token in range(NOISE_TOKENS)), 1)
    with torch.random.fork_rng(), _training_mode(model, without_dropout_modules=without_dropout_modules):
        first, second = (plain_log_probs(model, [row]) for _ in range(2))
    return ((first - second).abs() / row.num_scored).item()


@contextmanager
def _training_mode(model: nn.Module, *, without_dropout_modules: bool) -> Iterator[None]:
    kept = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    model.train()
    try:
        if without_dropout_modules:
            for module, _ in kept:
                module.p = 0.0
        yield
    finally:
        model.eval()
        for module, probability in kept:
            module.p = probability


def lost_steps(checkpoint: Checkpoint, learning_rate: float) -> Iterator[Finding]:
    """Whether AdamW's steps on all weights survive rounding to bfloat16."""
    parameters = [parameter for parameter in checkpoint.model.parameters() if parameter.is_floating_point()]
    yield from _lost(
        parameters,
        learning_rate,
        "bfloat16 weights",
        "load float32 weights and use bf16 mixed precision, train LoRA, or raise the learning rate; "
        "DeepSpeed and FSDP with mixed precision keep float32 weights",
    )


def _lost_steps_of_a_quantised_base(checkpoint: Checkpoint, learning_rate: float) -> Iterator[Finding]:
    """TRL casts the adapters of a quantised base to bfloat16. The zeros of B can take any step; A's values cannot."""
    adapters = [parameter for name, parameter in checkpoint.model.named_parameters() if ".lora_A." in name]
    yield from _lost(
        adapters,
        learning_rate,
        "weights of LoRA's A, which TRL casts to bfloat16 on a quantised base",
        "raise the learning rate, usually to 1e-5 or more for LoRA, or do not quantise the base",
    )


def _lost(parameters: Sequence[Tensor], learning_rate: float, title: str, remedy: str) -> Iterator[Finding]:
    first, ordinary = (changed_share(parameters, step) for step in (learning_rate, ORDINARY_STEP * learning_rate))
    if parameters and ordinary < LOST_SHARE:
        one = finding(
            "D-LEARNING-RATE-LOST",
            f"AdamW's first step of {learning_rate:g} changes {first:.1%} of the {title}, and an ordinary later step "
            f"{ordinary:.1%}; the others round back",
            remedy,
        )
        yield replace(one, severity=Severity.ERROR) if first < NOTHING else one


def changed_share(parameters: Sequence[Tensor], step: float) -> float:
    """The share of weights that a step of one size changes after rounding to bfloat16, from a sample."""
    changed = total = 0
    stride = max(1, sum(parameter.numel() for parameter in parameters) // SAMPLED_WEIGHTS)
    for parameter in parameters:
        weights = parameter.detach().flatten()[::stride].to(torch.bfloat16)
        stepped = (weights.float() - step * weights.float().sign()).to(torch.bfloat16)
        changed += int((stepped != weights).sum())
        total += weights.numel()
    return changed / max(1, total)
