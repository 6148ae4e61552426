"""The nouns that cross folder borders: frozen data, standard library only, no behaviour beyond reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol

SCHEMA = "entangle.run"
SCHEMA_VERSION = "1.0"


class Status(str, Enum):
    """What became of a row of the data set."""

    OK = "ok"
    SKIPPED = "skipped"
    UNDEFINED = "undefined"


class Movement(str, Enum):
    """Where the two log-probs go under one small step on the pair alone."""

    SEPARATES = "separates"
    BOTH_RISE = "both_rise"
    BOTH_FALL = "both_fall"
    REVERSED = "reversed"
    STILL = "still"


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

    dtype: str = "float32"
    max_length: int | Literal["auto"] | None = AUTO_LENGTH
    """Tokens of prompt and response together; `auto` for TRL's 1,024, or the model's context where that is shorter;
    None for no limit."""
    truncation: str = "keep_start"
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
class ScanPlan:
    """What a scan recognised and will do, before it starts."""

    model: str
    data: str
    data_kind: str
    formats: tuple[str, ...]
    """How the first rows were recognised."""
    num_rows: int
    num_selected: int
    num_parameters: int
    """Parameter elements that count."""
    num_model_parameters: int
    numel_by_rule: Mapping[str, int]
    slow_parameters: Mapping[str, str]
    """Parameter name to why it takes the slow exact way."""
    checkpoint_warnings: Mapping[str, str]
    """Code to sentence: what a user should know about how the checkpoint was loaded."""
    device: str
    dtype: str
    batch_tokens: int
    max_length: int | None = None
    """Tokens of prompt and response together; None for no limit."""
    context: int | None = None
    """Tokens of the longest sequence that the model was made for; None where its config does not say."""
    num_processes: int = 1
    """That deal out the batches among them."""


@dataclass(frozen=True, slots=True)
class ScanEstimate:
    """What a scan will take, from two batches of its first window that were measured."""

    pair_seconds: float
    """Of a pair in the batch of median length."""
    total_seconds: float
    """Of all selected rows, if they are like the first ones."""
    weight_bytes: int
    peak_bytes: int | None
    """Largest size of the process or the device's memory in use, in the batch of the longest pairs; None if unknown."""
    longest_tokens: int
    """Tokens of the longest sequence seen."""


@dataclass(frozen=True, slots=True)
class PairRecord:
    """One row of a run: the fields of the run document, in its order and by its names.

    Numbers that are not defined are None, and `reason` says why.
    """

    index: int
    """Row in the data, from 0, before any filtering, sampling or sorting."""
    pair_id: str | None
    """Hash of the normalised pair; None where the row could not be read as a pair."""
    status: str
    reason: str | None = None
    detail: str | None = None
    """The reason in words, with what was found; None for measured pairs."""
    line: int | None = None
    """Line in the data file, from 1, where the format has lines."""
    file: str | None = None
    """Where the data set has several files: which."""
    pair_in_row: int | None = None
    """Number of the pair among those of a ranked row, from 0; None where a row holds one pair."""
    format: str | None = None
    """How the row was recognised, in words."""
    warnings: str | None = None
    """Codes of what may go wrong with this pair, with spaces between; None without any."""
    unread_columns: str | None = None
    """Columns that hold a prompt, or a part of one, that is not read, with spaces between; None without any."""
    unordered_id: str | None = None
    """Hash of the pair whichever answer is the chosen one: two preferences that contradict each other share it."""
    chosen_score: float | None = None
    """What the data set says of the answer, in its own scale; beside the pair, and used by nothing here."""
    rejected_score: float | None = None
    preference_strength: float | None = None
    """By how much the chosen answer is preferred, as the data set counts it."""
    boundary_moved: bool | None = None
    """The tokenised prompt is no prefix of prompt and answer: scoring starts before the prompt's end, as in TRL."""
    prompt_tokens: int | None = None
    chosen_tokens: int | None = None
    rejected_tokens: int | None = None
    chosen_truncated: bool | None = None
    rejected_truncated: bool | None = None
    prompt_text: str | None = None
    """As it was read, messages with their roles; None unless text was asked for."""
    chosen_text: str | None = None
    rejected_text: str | None = None
    chosen_log_prob: float | None = None
    """Sum over the scored response tokens, nats."""
    rejected_log_prob: float | None = None
    chosen_ref_log_prob: float | None = None
    """None means that the reference is this checkpoint."""
    rejected_ref_log_prob: float | None = None
    chosen_grad_norm: float | None = None
    """L2 norm of the gradient of `chosen_log_prob` over the parameters in question."""
    rejected_grad_norm: float | None = None
    inner_product: float | None = None
    cosine: float | None = None
    norm_ratio: float | None = None
    """chosen_grad_norm / rejected_grad_norm."""
    chosen_condition: float | None = None
    """inner_product / chosen_grad_norm^2."""
    rejected_condition: float | None = None
    """inner_product / rejected_grad_norm^2."""
    ches: float | None = None
    """Razin et al.'s centred hidden embedding similarity; see `PairMeasurement`."""
    length_normalised_ches: float | None = None
    head_inner_product: float | None = None
    """The unembedding's part of `inner_product`; None where it is not among the parameters."""
    unshared_cosine: float | None = None
    """Cosine of the gradients behind the tokens that both answers start with; None unless it was asked for."""
    edit_distance: int | None = None
    """Levenshtein distance of the scored tokens."""
    shared_prefix_tokens: int | None = None
    """Scored tokens that both answers start with."""
    shared_suffix_tokens: int | None = None
    """Scored tokens that both answers end with, behind the shared prefix."""
    movement: str | None = None
    chosen_delta: float | None = None
    """Predicted first-order change in nats per unit learning rate (pair-sgd)."""
    rejected_delta: float | None = None
    slack: float | None = None
    """Distance to the nearest boundary in log units; None where every coefficient ratio separates."""
    uncertain: bool | None = None


RowKey = int | tuple[int, int]
"""What names a record within a run: the row's index, and the pair's number where the row holds several."""


class _InRow(Protocol):
    @property
    def index(self) -> int: ...
    @property
    def pair_in_row(self) -> int | None: ...


def row_key(record: _InRow) -> RowKey:
    """The key of a record, a pair or a skipped row."""
    return record.index if record.pair_in_row is None else (record.index, record.pair_in_row)


COUNT_FIELDS = frozenset(
    {
        "index",
        "line",
        "pair_in_row",
        "prompt_tokens",
        "chosen_tokens",
        "rejected_tokens",
        "edit_distance",
        "shared_prefix_tokens",
        "shared_suffix_tokens",
    }
)
"""Fields of `PairRecord` that are whole numbers."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know that is not an error; shown in every output."""

    code: str
    message: str
    count: int = 1
    """Rows it concerns."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it is read back: its manifest, its pairs by column, its status."""

    folder: Path
    manifest: Mapping[str, Any]
    columns: Mapping[str, Any]
    """Field name of `PairRecord` to a numpy array, in the order of `index`: numbers and booleans float64 with NaN for
    null, text as objects with None for null."""

    @property
    def status(self) -> str:
        """`complete` or `partial`."""
        return str(self.manifest["status"])


@dataclass(frozen=True, slots=True)
class TokenizedResponse:
    """Prompt and response as the model reads them, after truncation."""

    ids: tuple[int, ...]
    first_scored: int
    """Position of the first token whose log-prob counts, at least 1: position 0 has no predecessor."""
    truncated: bool = False

    @property
    def num_scored(self) -> int:
        """Tokens whose log-probs are summed."""
        return max(0, len(self.ids) - self.first_scored)


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """The two responses of a pair, ready for the engine."""

    chosen: TokenizedResponse
    rejected: TokenizedResponse


@dataclass(frozen=True, slots=True)
class GroupProducts:
    """A group of parameters' part of what is measured of a pair: the parts of all groups add up to it."""

    group: str
    chosen_squared_norm: float
    rejected_squared_norm: float
    inner_product: float


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One row of a run's layers: a pair's products within one group of parameters."""

    index: int
    pair_in_row: int | None
    products: GroupProducts


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """What a scan hands on at a time."""

    pairs: Sequence[PairRecord]
    layers: Sequence[LayerRecord] = ()
    """Of those pairs, where the settings ask for them."""


@dataclass(frozen=True, slots=True)
class PairMeasurement:
    """What the engine measures of a pair; independent of any loss."""

    chosen_log_prob: float
    """Sum over scored tokens, nats."""
    rejected_log_prob: float
    chosen_squared_norm: float
    """|g_chosen|^2, in nats^2 per squared parameter unit."""
    rejected_squared_norm: float
    inner_product: float
    ches: float | None = None
    """<S_c, S_r> - |S_c|^2, S the sum of a response's last hidden states; None where the head was not seen."""
    length_normalised_ches: float | None = None
    """The same of their means."""
    head_inner_product: float | None = None
    """The unembedding's part of `inner_product`; None where it is not among the parameters."""
    groups: tuple[GroupProducts, ...] = ()
    """The same products by group of parameters, where the engine was told groups."""
