"""One pair of a run. `PairRecord` is the single definition of a pair's fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Protocol

from entangle_cli.records.measurement import GroupProducts


class Status(StrEnum):
    """The outcome of a data set row."""

    OK = "ok"
    SKIPPED = "skipped"
    UNDEFINED = "undefined"


class Movement(StrEnum):
    """The direction of both log-probs after one small step on the pair alone."""

    SEPARATES = "separates"
    BOTH_RISE = "both_rise"
    BOTH_FALL = "both_fall"
    REVERSED = "reversed"
    STILL = "still"


WRONG_WAY = (Movement.BOTH_FALL, Movement.BOTH_RISE, Movement.REVERSED)
"""Movements other than the one that a preference loss is for, and than standing still."""

MOVEMENT_MEANINGS = {
    Movement.SEPARATES: "chosen up, rejected down: the goal of a preference loss",
    Movement.BOTH_RISE: "both up: rejected answers gain probability too",
    Movement.BOTH_FALL: "both down: chosen answers lose probability too",
    Movement.REVERSED: "chosen down, rejected up",
    Movement.STILL: "neither moves",
}


def _measured(meaning: str) -> Any:
    """A stored field that does not depend on the loss. Null if unknown."""
    return field(default=None, metadata={"meaning": meaning, "by_loss": False})


def _by_loss(meaning: str) -> Any:
    """A field that depends on the loss. It is computed when a run is read."""
    return field(default=None, metadata={"meaning": meaning, "by_loss": True})


@dataclass(frozen=True, slots=True)
class PairRecord:
    """One row of a run, with the field names and order of the run document.

    Undefined numbers are None, and `reason` gives the cause. To add a field, add a line here.
    """

    index: int = field(metadata={"meaning": "row in the data, from 0, before any filtering, sampling or sorting"})
    pair_id: str | None = field(
        metadata={"meaning": "hash of the normalised pair; null if the row could not be read as a pair"}
    )
    status: str = field(metadata={"meaning": "ok, skipped (not measured) or undefined (measured, without a result)"})
    reason: str | None = _measured("code for why the row was skipped or a number is undefined")
    detail: str | None = _measured("the reason in words, with the values found")
    line: int | None = _measured("line in the data file, from 1, if the format has lines")
    file: str | None = _measured("the row's file, if the data set has several")
    pair_in_row: int | None = _measured("number of the pair within a ranked row, from 0")
    format: str | None = _measured("the recognised data format, in words")
    warnings: str | None = _measured("warning codes for this pair, separated by spaces")
    unread_columns: str | None = _measured("columns that hold all or part of a prompt and are not read")
    unordered_id: str | None = _measured("hash of the pair, independent of the order of its answers")
    chosen_score: float | None = _measured("the data set's score of the chosen answer, on its own scale")
    rejected_score: float | None = _measured("the data set's score of the rejected answer, on its own scale")
    preference_strength: float | None = _measured("strength of the preference for the chosen answer, from the data set")
    boundary_moved: bool | None = _measured(
        "the prompt's tokens are not a prefix of the tokens of prompt and answer: scoring starts before the prompt's "
        "end, as in TRL"
    )
    prompt_tokens: int | None = _measured("tokens kept before the scored ones, in both sequences")
    chosen_tokens: int | None = _measured("scored tokens of the chosen answer after truncation")
    rejected_tokens: int | None = _measured("scored tokens of the rejected answer after truncation")
    chosen_truncated: bool | None = _measured("scored tokens of the chosen answer were cut")
    rejected_truncated: bool | None = _measured("scored tokens of the rejected answer were cut")
    prompt_text: str | None = _measured("the prompt text, messages with their roles; only with --include-text")
    chosen_text: str | None = _measured("the text of the chosen answer; only with --include-text")
    rejected_text: str | None = _measured("the text of the rejected answer; only with --include-text")
    chosen_log_prob: float | None = _measured("log-prob of the chosen answer, summed over its scored tokens, nats")
    rejected_log_prob: float | None = _measured("log-prob of the rejected answer, summed over its scored tokens, nats")
    chosen_ref_log_prob: float | None = _measured(
        "chosen_log_prob under the reference; null if the reference is this checkpoint"
    )
    rejected_ref_log_prob: float | None = _measured(
        "rejected_log_prob under the reference; null if the reference is this checkpoint"
    )
    chosen_grad_norm: float | None = _measured(
        "L2 norm of the gradient of chosen_log_prob over the selected parameters"
    )
    rejected_grad_norm: float | None = _measured(
        "L2 norm of the gradient of rejected_log_prob over the selected parameters"
    )
    inner_product: float | None = _measured("inner product of the two gradients")
    cosine: float | None = _measured("cosine of the two gradients")
    norm_ratio: float | None = _measured("chosen_grad_norm / rejected_grad_norm")
    chosen_condition: float | None = _measured("inner_product / chosen_grad_norm^2; compared with d_c/d_r")
    rejected_condition: float | None = _measured("inner_product / rejected_grad_norm^2; compared with d_r/d_c")
    ches: float | None = _measured("centred hidden embedding similarity of Razin et al.")
    length_normalised_ches: float | None = _measured("ches computed from mean hidden states")
    head_inner_product: float | None = _measured("the unembedding's part of inner_product")
    unshared_cosine: float | None = _measured(
        "cosine after the tokens that both answers start with; only with --unshared-cosine"
    )
    edit_distance: int | None = _measured("Levenshtein distance of the scored tokens")
    shared_prefix_tokens: int | None = _measured("scored tokens that both answers start with")
    shared_suffix_tokens: int | None = _measured("scored tokens that both answers end with, after the shared prefix")
    movement: str | None = _by_loss("direction of both log-probs after one small step on the pair alone")
    chosen_delta: float | None = _by_loss("predicted change of chosen_log_prob in nats per unit learning rate")
    rejected_delta: float | None = _by_loss("predicted change of rejected_log_prob in nats per unit learning rate")
    slack: float | None = _by_loss(
        "distance to the nearest boundary in log units, negative if the pair does not separate; null if no "
        "coefficients would change the movement"
    )
    uncertain: bool | None = _by_loss("a change is smaller than the dtype's numerical error, so its sign is uncertain")


class Kind(StrEnum):
    """The type of a field's values."""

    TEXT = "text"
    FLAG = "flag"
    COUNT = "count"
    NUMBER = "number"


KIND_OF_TYPE = {"str": Kind.TEXT, "bool": Kind.FLAG, "int": Kind.COUNT, "float": Kind.NUMBER}


@dataclass(frozen=True, slots=True)
class PairField:
    """One field of `PairRecord`."""

    name: str
    kind: Kind
    by_loss: bool
    """Whether the field depends on the loss. Such fields are computed, not stored."""
    nullable: bool
    meaning: str
    """Description for `entangle explain` and the JSON Schema."""


def _described(one: Any) -> PairField:
    words = [word.strip() for word in str(one.type).split("|")]
    by_loss = one.metadata.get("by_loss", False)
    return PairField(one.name, KIND_OF_TYPE[words[0]], by_loss, "None" in words, one.metadata["meaning"])


PAIR_FIELDS: Mapping[str, PairField] = {one.name: _described(one) for one in fields(PairRecord)}
"""The fields of a pair by name, in document order."""


def field_names(*kinds: Kind, by_loss: bool | None = None) -> tuple[str, ...]:
    """Names of a pair's fields, in order.

    Args:
        kinds: include only these kinds; include all if empty.
        by_loss: True for fields that depend on the loss, False for those that do not, None for both.
    """
    return tuple(
        one.name for one in PAIR_FIELDS.values() if (not kinds or one.kind in kinds) and by_loss in (None, one.by_loss)
    )


PLACES = ("index", "line", "pair_in_row")
"""Counts that identify a row and are not measurements."""

REASONS = {
    "malformed": "not a preference pair, or rejected by the tokenizer or the chat template; see `detail`",
    "null": "the prompt or an answer is null",
    "identical": "both answers have the same tokens, so there is no preference",
    "empty": "no token of an answer is scored",
    "tie": "the data set prefers neither answer",
    "labels_disagree": "two labels of the row prefer different answers",
    "prompt_too_long": "the prompt alone fills --max-length",
    "too_long_for_model": "the pair has more tokens than the model has learned positions",
    "zero_gradient": "the gradient of an answer is zero, so the cosine is undefined",
    "non_finite": "a log-prob or a gradient is not finite",
    "loss_undefined": "the loss has no finite coefficients for this pair, so it has no movement",
}
"""Reasons for a skipped row or an undefined number."""

RowKey = int | tuple[int, int]
"""Key of a record within a run: the row's index, plus the pair's number if the row holds several pairs."""


class _InRow(Protocol):
    @property
    def index(self) -> int: ...
    @property
    def pair_in_row(self) -> int | None: ...


def row_key(record: _InRow) -> RowKey:
    """Key of a record, a pair or a skipped row."""
    return record.index if record.pair_in_row is None else (record.index, record.pair_in_row)


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One row of a run's layers: a pair's products within one parameter group."""

    index: int
    pair_in_row: int | None
    products: GroupProducts


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """The records that a scan emits at once."""

    pairs: Sequence[PairRecord]
    layers: Sequence[LayerRecord] = ()
    """Layers of these pairs; empty unless the settings ask for them."""
