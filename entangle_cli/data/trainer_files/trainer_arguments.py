"""The arguments of transformers' Trainer, which the files of TRL and LLaMA-Factory share."""

from __future__ import annotations

from typing import Any

from entangle_cli.data.trainer_files.keys import Keys

NOT_QUANTISED = "the weights are measured without quantisation"
NO_OTHER_PARAMETERS = "LoRA on parameters that are no layer's weight is not supported"

ADAM = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}
"""AdamW's numbers with torch's defaults, which forecasts and rehearsals use."""

UNSUPPORTED = {
    "neftune_noise_alpha": "noise on the embeddings; the measured gradients have none",
    "deepspeed": "not read; it may set its own batch size, optimizer, clipping and dtype",
    "optim_args": "the optimizer's arguments are not read",
    "optim_target_modules": "an optimizer of its own for some layers",
    "lr_scheduler_kwargs": "the schedule's arguments are not read",
    "label_smoothing_factor": "a loss of its own for label smoothing",
    "auto_find_batch_size": "the trainer may use a smaller batch size",
    "trust_remote_code": "taken from the command line alone: add --trust-remote-code after reading that code",
}
"""Keys of all three trainers that matter and are not taken, with the reason."""


def step_settings(keys: Keys, *, learning_rate: float, num_processes: int = 1) -> dict[str, Any]:
    """The fields of a `TrainingSetup` that describe the optimizer's steps.

    Args:
        learning_rate: the trainer's default.
        num_processes: processes that a launch command names. Each counts as one more forward pass of a step.
    """
    remark_optimizer(keys, "optim")
    max_steps = keys.count("max_steps", -1)
    epochs = keys.amount("num_train_epochs", 3.0)
    return {
        "learning_rate": keys.amount("learning_rate", learning_rate),
        "lr_scheduler_type": keys.text("lr_scheduler_type", "linear"),
        "warmup_steps": warmup(keys),
        "weight_decay": keys.amount("weight_decay", 0.0),
        "max_grad_norm": keys.amount("max_grad_norm", 1.0),
        "optimizer": keys.text("optim", "adamw_torch_fused"),
        "epochs": None if max_steps > 0 else epochs,
        "max_steps": max_steps if max_steps > 0 else None,
        "batch_size": keys.count("per_device_train_batch_size", 8),
        "accumulate": keys.count("gradient_accumulation_steps", 1) * num_processes,
    }


def warmup(keys: Keys) -> float:
    """Steps of the warm-up, or their share of the run. Steps take precedence where both are given."""
    return keys.amount("warmup_steps", 0.0) or keys.amount("warmup_ratio", 0.0)


OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "adamw", "sgd")
"""Optimizers of Trainer whose steps forecasts know."""


def remark_optimizer(keys: Keys, key: str) -> None:
    """Remark on an optimizer that forecasts do not know, and on numbers of AdamW that are not torch's defaults."""
    name = keys.text(key, "adamw_torch")
    if name not in OPTIMIZERS:
        keys.remark(key, "forecasts and rehearsals use AdamW with all its states in float32")
    for key, default in ADAM.items():
        if keys.amount(key, default) != default:
            keys.remark(key, f"forecasts and rehearsals use {default:g}")


def mixed_precision(keys: Keys, default: str | None) -> str | None:
    """The dtype of mixed precision."""
    if keys.flag("fp16"):
        return "float16"
    if keys.value("bf16") is None:
        return default
    return "bfloat16" if keys.flag("bf16") else None
