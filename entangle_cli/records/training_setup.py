"""What a trainer's configuration file says of a preference training, in this project's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from entangle_cli.records.settings import LoraSettings, LossSettings


@dataclass(frozen=True, slots=True)
class DataSetSetup:
    """One data set of a training."""

    name: str
    """A file, a folder or a hub name."""
    split: str | None = None
    """A split, or a slice of one such as `train[:500]`."""
    config_name: str | None = None
    revision: str | None = None
    data_format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """Role to column."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A key of the file that matters to the training and is not taken, or not exactly."""

    key: str
    value: str
    """As the file has it, shortened."""
    reason: str


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """A training as its file describes it. None and empty values are not set there and have no default."""

    trainer: str
    """`TRL`, `axolotl` or `LLaMA-Factory`."""
    read_by: str
    """What parsed the file, in words."""
    method: str
    """The training's kind by its trainer's name, such as `dpo`."""

    model: str | None = None
    model_revision: str | None = None
    tokenizer: str | None = None
    adapter: str | None = None
    """An adapter on `model` whose training goes on."""
    ref_model: str | None = None
    data: tuple[DataSetSetup, ...] = ()
    data_problem: str | None = None
    """Why the data sets cannot be taken."""
    eval_data: tuple[DataSetSetup, ...] = ()
    held_out: float = 0.0
    """Share of the data that the trainer leaves out; from 1, their number."""
    chat_template: str | None = None
    """File with the chat template."""
    max_length: int | None = None
    """Tokens of prompt and response together; None for no limit."""
    truncation: str | None = None
    loss: LossSettings | None = None
    loss_problem: str | None = None
    """Why the loss cannot be taken."""
    learning_rate: float | None = None
    lr_scheduler_type: str | None = None
    warmup_steps: float | None = None
    """Steps, or their share of the run if below 1."""
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    optimizer: str | None = None
    """As the trainer names it."""
    epochs: float | None = None
    """None if the file sets the number of steps."""
    max_steps: int | None = None
    batch_size: int | None = None
    """Pairs per forward pass of one process."""
    accumulate: int = 1
    """Forward passes per step, over all processes that the file names."""
    num_processes: int = 1
    """Processes that the file's launch command names."""
    dtype: str | None = None
    """Dtype of the weights; None for the checkpoint's."""
    autocast: str | None = None
    """Dtype of mixed precision; None without it."""
    lora: LoraSettings | None = None

    given: Mapping[str, Any] = field(default_factory=dict)
    """Every key of the file with its value, as parsed."""
    remarks: tuple[Remark, ...] = ()
    unread: tuple[str, ...] = ()
    """Keys of the file that were not looked at."""
    parser: str | None = None
    """Name and version of the installed trainer whose own parser read the file; None if entangle read it alone."""
    refused: str | None = None
    """Why the installed trainer refuses the file."""
    unknown: tuple[str, ...] = ()
    """Keys that the installed trainer does not know."""
