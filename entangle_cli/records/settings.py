"""User settings: reading data, loading a checkpoint, measuring, and the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal


class Dtype(StrEnum):
    """Supported dtypes. float16 is not supported."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT64 = "float64"


class Schedule(StrEnum):
    """Supported schedules of the learning rate: values of Trainer's `lr_scheduler_type`."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"


class ReportFormat(StrEnum):
    """Output formats of a report."""

    TERMINAL = "terminal"
    HTML = "html"
    MARKDOWN = "markdown"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


class Truncation(StrEnum):
    """The end of an overlong sequence that is kept; TRL's `truncation_mode`."""

    KEEP_START = "keep_start"
    KEEP_END = "keep_end"


OWN_NAMES = {"dpo": "sigmoid"}
"""What people call a loss to TRL's name for it."""


@dataclass(frozen=True, slots=True)
class LossSettings:
    """The preference loss. Its coefficients weight the two gradients."""

    name: str = "sigmoid"
    """A key of `analysis.losses.table.LOSSES`."""
    beta: float = 0.1
    """Inverse temperature of the loss, as TRL's `beta`. Losses without one ignore it."""
    options: Mapping[str, float] = field(default_factory=dict)
    """Other parameters of the loss, by the names in its table row. Missing ones use their defaults."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", OWN_NAMES.get(self.name, self.name))


LARGEST_ROW = 8 * 2**20
"""Bytes, about two million tokens. The tokenizers library needs about 250 bytes of memory per token."""


@dataclass(frozen=True, slots=True)
class ReadingSettings:
    """The part of a data set to read, and how to read its rows."""

    split: str | None = None
    """A split, or a slice in the syntax of `datasets`: `train[:500]`."""
    config_name: str | None = None
    """Configuration of a data set on the hub, or of a folder whose README defines some."""
    revision: str | None = None
    """Branch, tag or commit of a data set on the hub."""
    data_format: str | None = None
    """Format of all rows; None to recognise each row by its columns."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Role to column, for rows in an unknown format."""
    ranked: str = "best-worst"
    """Pairs to form from a row with more than two answers: `best-worst`, `adjacent` or `all`."""
    max_row_bytes: int = LARGEST_ROW
    """Limit on a row in bytes, and on a rendered conversation in characters. A longer row is skipped. In a JSON array
    or a CSV it is an error."""


@dataclass(frozen=True, slots=True)
class LoadingSettings:
    """How to find and load a checkpoint."""

    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the hub."""
    base_model: str | None = None
    """Base of an adapter; None for the base named in its config."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer; None for the checkpoint's own."""
    chat_template: Path | None = None
    """File with a chat template that replaces the tokenizer's own."""
    template_date: str | None = None
    """Date for the chat template, as YYYY-MM-DD; None for the day of the scan."""
    trust_remote_code: bool = False
    """Whether to run code that comes with a checkpoint."""
    pickled_weights: bool = False
    """Whether to read pickled weights if there are no others, with torch's weights-only loading."""
    attn_implementation: str | None = None
    """Attention implementation, by its name in transformers; None for transformers' default."""


AUTO_LENGTH: Literal["auto"] = "auto"
DEFAULT_LENGTH = 1024
"""Tokens of prompt and response together, as in TRL's DPOConfig."""


@dataclass(frozen=True, slots=True)
class UntilDecided:
    """When to end a scan that reads rows in random order."""

    rules: tuple[str, ...]
    """Rules in the syntax of `--fail-if`. The scan ends when all are decided."""
    confidence: float = 0.95
    """Confidence of the verdict, valid at any stopping time; from 0.5 to below 1."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """A LoRA adapter that does not exist yet, with PEFT's names."""

    r: int = 8
    alpha: int = 16
    targets: tuple[str, ...] | None = None
    """Names of layers; `all-linear` for all linear ones; None for PEFT's choice for the model."""
    dropout: float = 0.0
    rslora: bool = False
    """Whether to scale by alpha / sqrt(r) instead of alpha / r."""
    dora: bool = False
    modules_to_save: tuple[str, ...] | None = None
    """Names of modules to train whole beside the adapter."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Processes that share a scan, run by Ray. They do not affect the numbers, except for rounding."""

    num_workers: int | None = None
    """None for one per GPU, or per four CPU cores where there is no GPU."""
    gpus_per_worker: int = 1
    """More than one spreads the model over the GPUs of a worker; see `ScanSettings.device_map`. Ignored on a CPU."""
    threads_per_worker: int | None = None
    """CPU cores of a worker; None for an equal share of a CPU's cores, or one beside a GPU."""
    ray_address: str | None = None
    """Address of a Ray cluster; None for RAY_ADDRESS, or a cluster on this machine that lasts as long as the scan."""


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """What a scan measures and how. The first group determines the numbers."""

    dtype: str = Dtype.FLOAT32.value
    max_length: int | Literal["auto"] | None = AUTO_LENGTH
    """Limit on tokens of prompt and response together. `auto` is TRL's 1,024, or the model's context if shorter. None
    is no limit."""
    truncation: str = Truncation.KEEP_START.value
    parameters: str | None = None
    """`all`, `adapter`, or a regular expression on parameter names. None selects an adapter's parameters if there is
    an adapter, else all."""
    limit: int | None = None
    """Read only this many rows from the start."""
    sample: int | None = None
    """Read only this many rows, drawn at random with `seed`."""
    seed: int = 0
    shard: str | None = None
    """`I/N`: every N-th selected row, starting with the I-th, counted from 1."""
    reading: ReadingSettings = ReadingSettings()
    loading: LoadingSettings = LoadingSettings()
    lora: LoraSettings | None = None
    """A new adapter whose parameters to measure, initialised with `seed`; None for the checkpoint as it is."""
    ref_model: str | None = None
    """Checkpoint for the reference log-probs; None to use the data's columns, or this checkpoint's own."""
    unshared_cosine: bool = False
    """Whether to measure pairs a second time without the tokens that both answers start with."""
    layers: bool = False
    """Whether to store the products per parameter group."""
    include_text: bool = False
    """Whether to store the pairs' text."""

    until_decided: UntilDecided | None = None
    """End the scan once these rules are decided; None to measure all rows."""

    loss: LossSettings = LossSettings()
    """Weights the measured gradients. The measurements do not depend on it."""
    device: str = "auto"
    device_map: str | None = None
    """transformers' `device_map`: how accelerate spreads the model over devices; None for one device."""
    batch_tokens: int | None = None
    """Tokens per batch, padding included; None for a fast size that fits into memory."""
    activation_checkpointing: bool = False
    """Whether to recompute layers in the backward pass instead of keeping their activations."""
    strict: bool = False
    """Whether to end the scan at the first row that cannot be measured."""
    workers: WorkerSettings | None = None
    """Measure with several processes; None for this process alone."""


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """One optimizer step, with torch's parameters."""

    name: str = "adamw"
    """`sgd` or `adamw`."""
    learning_rate: float = 1e-6
    """TRL DPOConfig's default."""
    weight_decay: Mapping[str, float] = field(default_factory=dict)
    """By parameter name; 0 for missing names."""
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    """Clip the whole gradient to this norm first, as Trainer does; None for no clipping."""


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """The step to forecast, and how to check the forecast."""

    optimizer: str = "adamw"
    learning_rate: float | None = None
    """None for the state's value, or TRL's default without a state."""
    weight_decay: float | None = None
    """None for the state's value, or Trainer's default of 0 without a state."""
    state: Path | None = None
    """A Trainer checkpoint's optimizer.pt; None for the first step."""
    max_grad_norm: float | None = 1.0
    batch_size: int | None = None
    """Pairs per forward pass in training; None for the whole data set in one step."""
    accumulate: int = 1
    """Forward passes per step."""
    horizon: int | None = None
    """Steps of the run to forecast; None for `epochs`."""
    epochs: float = 1.0
    """Epochs of the run, if `horizon` is None."""
    lr_scheduler_type: str = Schedule.LINEAR.value
    """Schedule of the learning rate over the run, a value of `Schedule`."""
    warmup_steps: float = 0
    """Steps with a rising learning rate, or their share of the run if below 1."""
    verify: bool = False
    """Whether to take the step on a copy and compare."""
    eval_split: str | None = None
    """Split of the held-out data set."""
    probe: Path | str | None = None
    """Prompts with answers to follow along the step: rows with `prompt`, `completion` and perhaps `group`."""
    probe_generate: int | None = None
    """Most tokens of the checkpoint's own answers to rows of `probe` without a completion; None skips such rows."""


@dataclass(frozen=True, slots=True)
class RehearsalSettings:
    """The training whose first steps are rehearsed. Names are those of TRL's DPOConfig where it has them."""

    losses: tuple[LossSettings, ...] = (LossSettings(),)
    """Each is rehearsed from the checkpoint, on the same batches."""
    steps: int = 50
    """Real steps per loss."""
    horizon: int | None = None
    """Steps of the whole run, which set the schedule; None for `epochs`."""
    epochs: float = 1.0
    """Epochs of the whole run, if `horizon` is None."""
    learning_rate: float = 1e-6
    lr_scheduler_type: str = Schedule.LINEAR.value
    warmup_steps: float = 0
    """Steps with a rising learning rate, or their share of the run if below 1."""
    batch_size: int = 8
    """Pairs per forward pass."""
    accumulate: int = 1
    """Forward passes per step."""
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    lora: LoraSettings | None = None
    """The adapter to train; None trains all weights."""
    held_out: float = 0.0
    """Share of the data to leave out of the training, drawn with the seed."""
    eval_split: str | None = None
    """Split of the held-out data set."""
    every: int | None = None
    """Steps between two measurements of the probe pairs; None for ten of them."""
    num_pairs: int = 64
    """Probe pairs, half of them held out if there are any."""
    probe: Path | str | None = None
    """Prompts with answers to follow along the training: rows with `prompt`, `completion` and perhaps `group`."""
    probe_generate: int | None = None
    """Most tokens of the checkpoint's own answers to rows of `probe` without a completion; None skips such rows."""


@dataclass(frozen=True, slots=True)
class FilterRules:
    """The rows that a filter keeps, named as the command-line options."""

    drop: tuple[str, ...] = ()
    """Conditions such as `movement == both_fall`. Rows that meet any of them are dropped."""
    keep: tuple[str, ...] = ()
    """Conditions that a kept row must all meet."""
    keep_lowest: float | None = None
    """Share of the measured pairs to keep, those with the lowest `by`."""
    keep_highest: float | None = None
    by: str = "cosine"
    drop_uncertain: bool = False
    drop_unmeasured: bool = False
    """Whether to drop rows that were skipped or are not in the run."""
    keep_unmeasured: bool = False
    """Whether to keep rows that are not in the run."""
