"""Builds TRL's trainers for a rehearsal. They write no checkpoint and report to nobody."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from entangle_cli.data.checkpoint import Checkpoint, quiet_libraries
from entangle_cli.data.training_rows import TrainingRow, as_dataset
from entangle_cli.diagnose.rehearse.trl_losses import CPO, DPO, ORPO, trainer_of
from entangle_cli.errors import (
    DataError,
    EntangleError,
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


@dataclass(frozen=True, slots=True)
class TrainingInputs:
    """What all losses of a rehearsal share."""

    rows: Sequence[TrainingRow]
    settings: RehearsalSettings
    horizon: int
    """Steps of the whole run."""
    max_length: int | None
    truncation: str
    dtype: str
    """float32, or bfloat16 for float32 weights under autocast, as TRL trains by default."""
    seed: int
    recompute: bool
    """Whether to recompute activations in the backward pass."""
    on_cpu: bool


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


def make_trainer(
    checkpoint: Checkpoint, reference: Checkpoint | None, loss: LossSettings, inputs: TrainingInputs, folder: Path
) -> Any:
    """TRL's trainer for a loss, ready to train the checkpoint's model.

    Args:
        checkpoint: a copy of the model in memory, which the training changes.
        reference: another copy; None if the loss or an adapter needs none.
        folder: the trainer's output folder. Without checkpoints, nothing is written there.
    Raises:
        UsageError: TRL has no trainer for the loss, or the adapter does not fit the model.
        DataError: the trainer refuses the model, the tokenizer or the data.
    """
    kind = trainer_of(loss)
    # Read when TRL is imported: a note on experimental trainers.
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    module, trainer_name, arguments_name = CLASSES[kind.trainer]
    trainer_class, arguments_class = (getattr(import_module(module), name) for name in (trainer_name, arguments_name))
    arguments = arguments_class(**_common_arguments(inputs, folder), **_own(kind.trainer, inputs), **kind.arguments)
    silent = type(trainer_name, (trainer_class,), {"_send_telemetry": _send_nothing})
    given: dict[str, Any] = {} if kind.trainer != DPO or inputs.settings.lora else {"ref_model": _model(reference)}
    with _translated(trainer_name, inputs.settings.lora):
        trainer = silent(
            model=_trainable(checkpoint),
            args=arguments,
            train_dataset=as_dataset(inputs.rows),
            processing_class=_with_padding(checkpoint.tokenizer),
            peft_config=None if inputs.settings.lora is None else _lora(inputs.settings.lora),
            **given,
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _send_nothing(trainer: object) -> None:
    """Stands in for TRL's telemetry, which would report that a trainer was created."""


def needs_reference(loss: LossSettings, settings: RehearsalSettings) -> bool:
    """Whether the trainer of a loss holds a reference model."""
    return trainer_of(loss).trainer == DPO and settings.lora is None


def _model(checkpoint: Checkpoint | None) -> Any:
    return None if checkpoint is None else checkpoint.model


def _trainable(checkpoint: Checkpoint) -> Any:
    checkpoint.model.requires_grad_(True)
    return checkpoint.model


def _common_arguments(inputs: TrainingInputs, folder: Path) -> dict[str, Any]:
    settings = inputs.settings
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulate,
        "max_steps": inputs.horizon,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": settings.warmup_steps if settings.warmup_steps < 1 else int(settings.warmup_steps),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm or 0.0,
        "seed": inputs.seed,
        "bf16": inputs.dtype == Dtype.BFLOAT16,
        "use_cpu": inputs.on_cpu,
        "gradient_checkpointing": inputs.recompute,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def _own(trainer: str, inputs: TrainingInputs) -> dict[str, Any]:
    """Arguments that only some trainers know. Only DPOTrainer can cut the start of a sequence."""
    if trainer != DPO:
        return {"max_length": inputs.max_length, "remove_unused_columns": False}
    cuts_start = inputs.truncation == Truncation.KEEP_END
    return {"max_length": inputs.max_length, **({"truncation_mode": inputs.truncation} if cuts_start else {})}


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


def _lora(settings: LoraSettings) -> Any:
    from peft import LoraConfig

    targets: Any = None if settings.targets is None else list(settings.targets)
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )


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
