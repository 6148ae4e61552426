"""What a trainer refuses: a training with such a file does not start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from entangle_cli.data.trainer_files.keys import Keys
from entangle_cli.data.trainer_files.trl_losses import OF_TRL
from entangle_cli.records.finding import Finding, finding
from entangle_cli.records.training_setup import TrainingSetup

LOSSES_OF_LLAMA_FACTORY = ("sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo")
"""Values of pref_loss that LLaMA-Factory 0.9.5 accepts."""
WITH_DIVERGENCE = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
"""Losses of DPOTrainer that accept another divergence than reverse_kl."""
NO_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Names that users take for a dtype, to its name in torch."""

Refusals: TypeAlias = Iterator[tuple[str, str]]
"""What is refused, and the next step."""


def refusals(setup: TrainingSetup) -> Iterator[Finding]:
    """Everything in a file that its trainer refuses."""
    keys = Keys(setup.trainer, setup.given)
    found = list(_of_any(setup, keys))
    if setup.trainer in OF_TRAINER:
        found += OF_TRAINER[setup.trainer](setup, keys)
    for what, remedy in found:
        yield finding("D-REFUSED", what, remedy)


def _of_any(setup: TrainingSetup, keys: Keys) -> Refusals:
    if setup.refused is not None:
        yield f"{setup.trainer} refuses the file: {setup.refused}", "change what it names"
    if setup.batch_size is not None and setup.batch_size < 1:
        yield f"a batch of {setup.batch_size} pairs", "set the batch size per device to 1 or more"
    loss = setup.loss
    if loss is not None and loss.name == "ipo" and loss.beta == 0:
        yield "beta is 0 under ipo, which divides by it", "set beta; 0.1 is usual"
    for key, known in _loss_names(setup):
        if others := [name for name in keys.texts(key) if name not in known]:
            hint = f"{key}: sigmoid is DPO; else " if others[0] == "dpo" else ""
            yield f"{key}: {others[0]}: {setup.trainer} has no such loss", f"{hint}use one of {', '.join(known)}"


def _loss_names(setup: TrainingSetup) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The keys that name a loss, with the names that the trainer knows."""
    if setup.trainer == "TRL" and setup.method in OF_TRL:
        yield "loss_type", OF_TRL[setup.method]
    elif setup.trainer == "axolotl" and setup.method == "dpo":
        yield "dpo_loss_type", OF_TRL["dpo"]
    elif setup.trainer == "LLaMA-Factory" and setup.method == "dpo":
        yield "pref_loss", LOSSES_OF_LLAMA_FACTORY


def _of_trl(setup: TrainingSetup, keys: Keys) -> Refusals:
    dtype = keys.text("dtype") or keys.inside("model_init_kwargs").text("dtype")
    if dtype in NO_DTYPES:
        yield f"dtype: {dtype}: torch has no dtype of this name", f"write dtype: {NO_DTYPES[dtype]}"
    if setup.method == "kto":
        calculates_kl = keys.text("loss_type", "kto") == "kto"
        if calculates_kl and setup.batch_size == 1:
            yield "KTO with one row per forward pass: TRL refuses it", "set per_device_train_batch_size to 2 or more"
        return
    if setup.method == "dpo":
        yield from _of_dpo_trainer(setup, keys)


def _of_dpo_trainer(setup: TrainingSetup, keys: Keys) -> Refusals:
    names = keys.texts("loss_type") or ["sigmoid"]
    if "exo_pair" in names and not keys.amount("label_smoothing", 0.0):
        yield "loss_type: exo_pair with label_smoothing 0: TRL refuses it", "set label_smoothing: 0.001"
    divergence = keys.text("f_divergence_type", "reverse_kl")
    if divergence != "reverse_kl" and (others := [name for name in names if name not in WITH_DIVERGENCE]):
        yield f"f_divergence_type: {divergence} with {others[0]}: TRL refuses it", "use reverse_kl, or another loss"
    targets = keys.texts("lora_target_modules")
    if setup.lora is not None and "lm_head" in targets:
        yield "lora_target_modules: lm_head: TRL refuses an adapter there", "remove lm_head from the list"
    constant = {"use_peft": setup.lora is not None, "precompute_ref_log_probs": keys.flag("precompute_ref_log_probs")}
    for other, is_on in constant.items():
        if is_on and keys.flag("sync_ref_model"):
            yield f"sync_ref_model with {other}: TRL refuses it", "remove sync_ref_model"


def _of_axolotl(setup: TrainingSetup, keys: Keys) -> Refusals:
    if setup.method == "simpo" and not keys.amount("simpo_gamma", 0.0):
        yield "rl: simpo without simpo_gamma: axolotl passes None on", "set simpo_gamma: 0.5"
    if keys.amount("rpo_alpha", 0.0):
        yield (
            "rpo_alpha: axolotl since 0.19 refuses it",
            "use dpo_loss_type: [sigmoid, sft] with dpo_loss_weights: [1.0, ALPHA]",
        )
    if setup.learning_rate is None:
        yield "no learning_rate: axolotl needs one", "set learning_rate, usually from 1e-7 to 1e-5"


OF_TRAINER: Mapping[str, Callable[[TrainingSetup, Keys], Refusals]] = {"TRL": _of_trl, "axolotl": _of_axolotl}
