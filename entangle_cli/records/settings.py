"""What a user may choose: how data are read, a checkpoint is loaded, and what is measured under which loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal


class Dtype(StrEnum):
    """Dtypes that can be measured in; float16 cannot."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT64 = "float64"


class ReportFormat(StrEnum):
    """Outputs of a run's report."""

    TERMINAL = "terminal"
    HTML = "html"
    MARKDOWN = "markdown"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


class Truncation(StrEnum):
    """Which end of a sequence longer than `max_length` is kept; TRL's `truncation_mode`."""

    KEEP_START = "keep_start"
    KEEP_END = "keep_end"


@dataclass(frozen=True, slots=True)
class LossSettings:
    """The preference loss whose coefficients weigh the two gradients."""

    name: str = "sigmoid"
    """A key of `analysis.losses.table.LOSSES`."""
    beta: float = 0.1
    """Inverse temperature of the loss, as TRL's `beta`; losses without one ignore it."""
    options: Mapping[str, float] = field(default_factory=dict)
    """The loss's other numbers by the names of its table row; what is not given takes its default."""


LARGEST_ROW = 8 * 2**20
"""Bytes, two million tokens or so. The tokenizers library takes about 250 bytes of memory for each of them."""


@dataclass(frozen=True, slots=True)
class ReadingSettings:
    """Which part of a data set is meant, and how its rows are read."""

    split: str | None = None
    """Also a slice, as `datasets` has it: `train[:500]`."""
    config_name: str | None = None
    """Configuration of a data set on the hub, or of a folder with a README that names some."""
    revision: str | None = None
    """Branch, tag or commit of a data set on the hub."""
    data_format: str | None = None
    """How every row is read; None to recognise each by its columns."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Role to column, for rows of no known format."""
    ranked: str = "best-worst"
    """Which pairs are made of a row with more than two answers: `best-worst`, `adjacent` or `all`."""
    max_row_bytes: int = LARGEST_ROW
    """Bytes of the longest row that is read, and characters of the longest text that a chat template makes of one. A
    longer row is skipped, or ends a JSON array or a CSV."""


@dataclass(frozen=True, slots=True)
class LoadingSettings:
    """How a checkpoint is found and loaded."""

    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the hub."""
    base_model: str | None = None
    """Base of an adapter; None for the one its config names."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer; None for the checkpoint's own."""
    chat_template: Path | None = None
    """A file with the chat template to use instead of the tokenizer's own."""
    template_date: str | None = None
    """The day that a chat template takes for today, as YYYY-MM-DD; None for the day of the scan."""
    trust_remote_code: bool = False
    """Whether code that comes with a checkpoint is run."""
    pickled_weights: bool = False
    """Whether pickled weights are read where there are no others, by torch's weights-only loading."""
    attn_implementation: str | None = None
    """How attention is computed, by transformers' names; None for what transformers chooses."""


AUTO_LENGTH: Literal["auto"] = "auto"
DEFAULT_LENGTH = 1024
"""Tokens of prompt and response together, as in TRL's DPOConfig."""


@dataclass(frozen=True, slots=True)
class UntilDecided:
    """When a scan that takes rows in random order ends."""

    rules: tuple[str, ...]
    """As `--fail-if` has them; all must be settled."""
    confidence: float = 0.95
    """Of the verdict, whenever it comes; from 0.5 to below 1."""


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """What a scan measures and how; the first group decides the numbers."""

    dtype: str = Dtype.FLOAT32.value
    max_length: int | Literal["auto"] | None = AUTO_LENGTH
    """Tokens of prompt and response together; `auto` for TRL's 1,024, or the model's context where that is shorter;
    None for no limit."""
    truncation: str = Truncation.KEEP_START.value
    parameters: str | None = None
    """`all`, `adapter`, or a regular expression on parameter names; None for an adapter's where there is one."""
    limit: int | None = None
    """Only the first rows."""
    sample: int | None = None
    """Only so many rows, drawn at random with `seed`."""
    seed: int = 0
    shard: str | None = None
    """`I/N`: of the rows that count every N-th, beginning with the I-th, from 1."""
    reading: ReadingSettings = ReadingSettings()
    loading: LoadingSettings = LoadingSettings()
    ref_model: str | None = None
    """Checkpoint of the reference log-probs; None for those of the data's columns, or this checkpoint's own."""
    unshared_cosine: bool = False
    """Whether pairs whose answers start alike are measured a second time, without that start."""
    layers: bool = False
    """Whether the products of each group of parameters are kept as well."""
    include_text: bool = False
    """Whether the run keeps the pairs' text."""

    until_decided: UntilDecided | None = None
    """Ends the scan once its rules are settled; None to measure all rows."""

    loss: LossSettings = LossSettings()
    """Weighs the gradients afterwards; what is measured does not depend on it."""
    device: str = "auto"
    device_map: str | None = None
    """How accelerate spreads the model over devices, as transformers' `device_map`; None for one device."""
    batch_tokens: int | None = None
    """Tokens of a batch, padding included; None for what is fast and fits into memory."""
    activation_checkpointing: bool = False
    """Whether layers are computed again in the backward pass instead of being kept."""
    strict: bool = False
    """Whether the first row that cannot be measured ends the scan."""


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """One step of an optimizer, as torch names its numbers."""

    name: str = "adamw"
    """`sgd` or `adamw`."""
    learning_rate: float = 1e-6
    """TRL DPOConfig's default."""
    weight_decay: Mapping[str, float] = field(default_factory=dict)
    """By parameter name; those that are missing have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    """The whole gradient is scaled down to this norm first, as Trainer does; None for no clipping."""


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """The step that is forecast, and how the forecast is checked."""

    optimizer: str = "adamw"
    learning_rate: float | None = None
    """None for that of the state, or TRL's default."""
    weight_decay: float | None = None
    """None for that of the state, or 0, Trainer's default."""
    state: Path | None = None
    """A Trainer checkpoint's optimizer.pt; None for the first step."""
    max_grad_norm: float | None = 1.0
    batch_size: int | None = None
    """Pairs of a forward pass in training; None for the whole data set in one step."""
    accumulate: int = 1
    """Forward passes a step."""
    verify: bool = False
    """Whether the step is taken for real on a copy and compared."""
    steps: int = 0
    """Real steps over which the forecast is followed; 0 for none."""
    eval_split: str | None = None
    """Split of the held-out data set."""


@dataclass(frozen=True, slots=True)
class FilterRules:
    """Which rows a filter keeps, in the words of the command line."""

    drop: tuple[str, ...] = ()
    """Conditions such as `movement == both_fall`; a row that meets one is dropped."""
    keep: tuple[str, ...] = ()
    """Conditions that a kept row must meet, all of them."""
    keep_lowest: float | None = None
    """Share of the measured pairs with the lowest `by` that is kept."""
    keep_highest: float | None = None
    by: str = "cosine"
    drop_uncertain: bool = False
    drop_unmeasured: bool = False
    """Whether rows that were skipped or are not in the run are dropped."""
    keep_unmeasured: bool = False
    """Whether rows that are not in the run are kept."""
