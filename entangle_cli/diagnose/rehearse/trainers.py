"""Builds TRL's trainers for a rehearsal. They write no checkpoint and report to nobody."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from entangle_cli.data.checkpoint import Checkpoint, is_quantised, load_checkpoint, quiet_libraries
from entangle_cli.data.planned_adapter import lora_config
from entangle_cli.data.training_rows import as_dataset, without_progress_bars
from entangle_cli.diagnose.rehearse.followed_probes import FollowedProbes
from entangle_cli.diagnose.rehearse.rehearsal import Rehearsal
from entangle_cli.diagnose.rehearse.trl_losses import CPO, DPO, ORPO, trainer_of
from entangle_cli.errors import (
    DataError,
    EntangleError,
    ModelError,
    UnfinishedError,
    UsageError,
    is_out_of_memory,
    out_of_memory,
)
from entangle_cli.records.settings import Dtype, LoraSettings, LossSettings, RehearsalSettings, Truncation

CLASSES = {
    DPO: ("trl", "DPOTrainer", "DPOConfig"),
    CPO: ("trl.experimental.cpo", "CPOTrainer", "CPOConfig"),
    ORPO: ("trl.experimental.orpo", "ORPOTrainer", "ORPOConfig"),
}
"""Trainer to its module, its class and the class of its arguments."""


def require_packages(settings: RehearsalSettings) -> None:
    """Check that TRL is installed, and PEFT for an adapter.

    Raises:
        UsageError: one of them is not.
    """
    needed = {"trl": "trl>=1.16,<2", "accelerate": "accelerate", **({"peft": "peft>=0.17"} if settings.lora else {})}
    if missing := [name for name in needed if find_spec(name) is None]:
        raise UsageError(
            f"rehearse{' --lora' if settings.lora else ''}: not installed: {', '.join(missing)}",
            "the packages of the extras trl and peft",
            f"pip install {' '.join(repr(needed[name]) for name in missing)}",
            topic="training",
        )


def make_trainer(rehearsal: Rehearsal, loss: LossSettings, folder: Path) -> Any:
    """TRL's trainer for a loss, ready to train a fresh copy of the checkpoint.

    Args:
        folder: the trainer's output folder. Without checkpoints, nothing is written there.
    Raises:
        UsageError: TRL has no trainer for the loss, or the adapter does not fit the model.
        ModelError: the checkpoint cannot be loaded or trained.
        DataError: the trainer refuses the model, the tokenizer or the data.
    """
    kind = trainer_of(loss)
    lora = rehearsal.settings.lora
    # Read when TRL is imported: a note on experimental trainers.
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    with quiet_libraries(), without_progress_bars():
        module, trainer_name, arguments_name = CLASSES[kind.trainer]
        trainer_class, arguments_class = (
            getattr(import_module(module), name) for name in (trainer_name, arguments_name)
        )
        arguments = arguments_class(**_arguments(rehearsal, kind.trainer, folder), **kind.arguments)
        if arguments.n_gpu > 1:
            arguments._n_gpu = 1  # or Trainer would multiply the batches by the number of GPUs
        silent = type(trainer_name, (trainer_class,), {"_send_telemetry": _send_nothing})
        policy = _loaded(rehearsal)
        has_reference = kind.trainer == DPO and lora is None
        reference = {"ref_model": _loaded(rehearsal).model} if has_reference else {}
        with _translated(trainer_name, lora):
            trainer = silent(
                model=policy.model.requires_grad_(True),
                args=arguments,
                train_dataset=as_dataset(rehearsal.rows),
                processing_class=_with_padding(policy.tokenizer),
                peft_config=None if lora is None else lora_config(lora),
                **reference,
            )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _loaded(rehearsal: Rehearsal) -> Checkpoint:
    loaded = load_checkpoint(rehearsal.model, rehearsal.weights_dtype, rehearsal.device, rehearsal.measuring.loading)
    if is_quantised(loaded.model):
        raise ModelError(
            f"{rehearsal.model}: quantised weights",
            "weights that can be trained",
            "rehearse on the checkpoint before quantisation",
        )
    return loaded


def _send_nothing(trainer: object) -> None:
    """Stands in for TRL's telemetry, which would report that a trainer was created."""


def _arguments(rehearsal: Rehearsal, trainer: str, folder: Path) -> dict[str, Any]:
    """The arguments of a trainer, without those of its loss. Only DPOTrainer can cut the start of a sequence."""
    settings, measuring = rehearsal.settings, rehearsal.measuring
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulate,
        "max_steps": rehearsal.horizon,
        "max_length": rehearsal.max_length,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": settings.warmup_steps if settings.warmup_steps < 1 else int(settings.warmup_steps),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm or 0.0,
        "seed": measuring.seed,
        "bf16": measuring.dtype == Dtype.BFLOAT16,
        "use_cpu": rehearsal.device.type == "cpu",
        "gradient_checkpointing": measuring.activation_checkpointing,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    if trainer != DPO:
        return {**arguments, "remove_unused_columns": False}
    cuts_start = measuring.truncation == Truncation.KEEP_END
    return {**arguments, "truncation_mode": measuring.truncation} if cuts_start else arguments


@contextmanager
def _translated(trainer: str, lora: LoraSettings | None) -> Iterator[None]:
    """Convert the errors of a trainer that refuses its model, its data or its adapter.

    Trainers tokenise their data, with templates that can raise any error.
    """
    try:
        yield
    except EntangleError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory() from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if lora is not None and "target" in reason.lower():
            raise UsageError(
                f"--lora: {reason}",
                "layers that the model has, or all-linear",
                "leave out targets for PEFT's choice, or use for example targets=q_proj+v_proj",
                topic="training",
            ) from error
        raise DataError(
            f"TRL's {trainer}: {reason}",
            "a model, a tokenizer and data that it can train on",
            "see how the data are read: entangle inspect DATA --model MODEL; --debug shows where it failed",
            topic="training",
        ) from error


def _with_padding(tokenizer: Any) -> Any:
    """The tokenizer with a token for padding, which not every trainer sets. No padded position is trained."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def run_trainer(trainer: Any, loss: str) -> list[dict[str, Any]]:
    """Train. Returns what the trainer logged about every step.

    Args:
        loss: the loss in words, for messages.
    Raises:
        UnfinishedError: memory ran out.
    """
    with quiet_libraries():
        try:
            trainer.train()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise UnfinishedError(
                f"out of memory in step {trainer.state.global_step + 1} under {loss}",
                "memory for the weights, their gradients, AdamW's moments, the reference and one batch",
                "lower --batch-size, or use --activation-checkpointing or --lora",
                topic="training",
            ) from error
    return [_finite(entry) for entry in trainer.state.log_history if "loss" in entry]


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with null for numbers that JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in entry.items()
    }


class FollowProbes(TrainerCallback):
    """Measures probe answers before the first step, every some steps and after the last one.

    Args:
        trainer: the trainer of the model.
        probes: collects the measurements.
        every: steps between two of them.
        last: number of the last step.
    """

    def __init__(self, trainer: Any, probes: FollowedProbes, every: int, last: int) -> None:
        self._trainer = trainer
        self._probes = probes
        self._every = every
        self._last = last

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the checkpoint."""
        self._measure(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure after every `every` steps and after the last one."""
        if state.global_step % self._every == 0 or state.global_step >= self._last:
            self._measure(state.global_step)

    def _measure(self, step: int) -> None:
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        tokenizer = self._trainer.processing_class
        self._probes.measure(model, getattr(tokenizer, "tokenizer", tokenizer), step)


class StopAfter(TrainerCallback):
    """Ends a training after some steps of its schedule.

    Args:
        steps: number of steps.
        advance: called after every step.
    """

    def __init__(self, steps: int, advance: Callable[[], None]) -> None:
        self._steps = steps
        self._advance = advance

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the step, and stop after the last one."""
        self._advance()
        if state.global_step >= self._steps:
            control.should_training_stop = True
