"""One pair of a run. The fields of `PairRecord` are the only place that says what a pair's fields are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Protocol

from entangle_cli.records.measurement import GroupProducts


class Status(StrEnum):
    """What became of a row of the data set."""

    OK = "ok"
    SKIPPED = "skipped"
    UNDEFINED = "undefined"


class Movement(StrEnum):
    """Where the two log-probs go under one small step on the pair alone."""

    SEPARATES = "separates"
    BOTH_RISE = "both_rise"
    BOTH_FALL = "both_fall"
    REVERSED = "reversed"
    STILL = "still"


MOVEMENT_MEANINGS = {
    Movement.SEPARATES: "chosen up, rejected down: what a preference loss is for",
    Movement.BOTH_RISE: "both up: rejected answers gain probability too",
    Movement.BOTH_FALL: "both down: chosen answers lose probability too",
    Movement.REVERSED: "chosen down, rejected up",
    Movement.STILL: "neither moves",
}


def _measured(meaning: str) -> Any:
    """A field that no loss changes; it is stored. Null where it is not known."""
    return field(default=None, metadata={"meaning": meaning, "by_loss": False})


def _by_loss(meaning: str) -> Any:
    """A field that depends on the loss; it is computed when a run is read."""
    return field(default=None, metadata={"meaning": meaning, "by_loss": True})


@dataclass(frozen=True, slots=True)
class PairRecord:
    """One row of a run: the fields of the run document, in its order and by its names.

    Numbers that are not defined are None, and `reason` says why. To add a field, add a line here.
    """

    index: int = field(metadata={"meaning": "row in the data, from 0, before any filtering, sampling or sorting"})
    pair_id: str | None = field(
        metadata={"meaning": "hash of the normalised pair; null where the row could not be read as a pair"}
    )
    status: str = field(metadata={"meaning": "ok, skipped (not measured) or undefined (measured, without a result)"})
    reason: str | None = _measured("why the row was skipped, or why a number is not defined")
    detail: str | None = _measured("the reason in words, with what was found")
    line: int | None = _measured("line in the data file, from 1, where the format has lines")
    file: str | None = _measured("which file, where the data set has several")
    pair_in_row: int | None = _measured("number of the pair among those of a ranked row, from 0")
    format: str | None = _measured("how the row was recognised, in words")
    warnings: str | None = _measured("codes of what may be wrong with this pair, separated by spaces")
    unread_columns: str | None = _measured("columns with a prompt, or a part of one, that is not read")
    unordered_id: str | None = _measured("hash of the pair whichever answer is the chosen one")
    chosen_score: float | None = _measured("the data set's score of the chosen answer, in its own scale")
    rejected_score: float | None = _measured("the data set's score of the rejected answer, in its own scale")
    preference_strength: float | None = _measured("by how much the chosen answer is preferred, as the data set counts")
    boundary_moved: bool | None = _measured(
        "the tokenised prompt is no prefix of prompt and answer: scoring starts before the prompt's end, as in TRL"
    )
    prompt_tokens: int | None = _measured("tokens before the scored ones that both sequences keep")
    chosen_tokens: int | None = _measured("scored tokens of the chosen answer after truncation")
    rejected_tokens: int | None = _measured("scored tokens of the rejected answer after truncation")
    chosen_truncated: bool | None = _measured("scored tokens of the chosen answer were cut")
    rejected_truncated: bool | None = _measured("scored tokens of the rejected answer were cut")
    prompt_text: str | None = _measured("the prompt as it was read, messages with their roles; with --include-text")
    chosen_text: str | None = _measured("the chosen answer as it was read; with --include-text")
    rejected_text: str | None = _measured("the rejected answer as it was read; with --include-text")
    chosen_log_prob: float | None = _measured("log-prob of the chosen answer, summed over its scored tokens, nats")
    rejected_log_prob: float | None = _measured("log-prob of the rejected answer, summed over its scored tokens, nats")
    chosen_ref_log_prob: float | None = _measured(
        "the same under the reference; null: the reference is this checkpoint"
    )
    rejected_ref_log_prob: float | None = _measured(
        "the same under the reference; null: the reference is this checkpoint"
    )
    chosen_grad_norm: float | None = _measured("L2 norm of the gradient of chosen_log_prob over the chosen parameters")
    rejected_grad_norm: float | None = _measured(
        "L2 norm of the gradient of rejected_log_prob over the chosen parameters"
    )
    inner_product: float | None = _measured("inner product of the two gradients")
    cosine: float | None = _measured("cosine of the two gradients")
    norm_ratio: float | None = _measured("chosen_grad_norm / rejected_grad_norm")
    chosen_condition: float | None = _measured("inner_product / chosen_grad_norm^2; compared with d_c/d_r")
    rejected_condition: float | None = _measured("inner_product / rejected_grad_norm^2; compared with d_r/d_c")
    ches: float | None = _measured("centred hidden embedding similarity of Razin et al.")
    length_normalised_ches: float | None = _measured("the same of mean hidden states")
    head_inner_product: float | None = _measured("the unembedding's part of inner_product")
    unshared_cosine: float | None = _measured("cosine behind the tokens that both answers start with; if asked for")
    edit_distance: int | None = _measured("Levenshtein distance of the scored tokens")
    shared_prefix_tokens: int | None = _measured("scored tokens that both answers start with")
    shared_suffix_tokens: int | None = _measured("scored tokens that both answers end with, behind the shared prefix")
    movement: str | None = _by_loss("where the two log-probs go under one small step on the pair alone")
    chosen_delta: float | None = _by_loss("predicted change of chosen_log_prob in nats per unit learning rate")
    rejected_delta: float | None = _by_loss("predicted change of rejected_log_prob in nats per unit learning rate")
    slack: float | None = _by_loss(
        "distance to the nearest boundary in log units, negative where the pair does not separate; null where no "
        "coefficients change that"
    )
    uncertain: bool | None = _by_loss("the sign of a change is within the numerical error of the dtype")


class Kind(StrEnum):
    """What a field's values are."""

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
    """Whether it depends on the loss, and so is computed instead of stored."""
    nullable: bool
    meaning: str
    """In words, for `entangle explain` and the JSON Schema."""


def _described(one: Any) -> PairField:
    words = [word.strip() for word in str(one.type).split("|")]
    by_loss = one.metadata.get("by_loss", False)
    return PairField(one.name, KIND_OF_TYPE[words[0]], by_loss, "None" in words, one.metadata["meaning"])


PAIR_FIELDS: Mapping[str, PairField] = {one.name: _described(one) for one in fields(PairRecord)}
"""The fields of a pair by name, in the document's order."""


def field_names(*kinds: Kind, by_loss: bool | None = None) -> tuple[str, ...]:
    """Names of a pair's fields, in order.

    Args:
        kinds: only fields of these; all without any.
        by_loss: only fields that depend on the loss, or only those that do not; None for both.
    """
    return tuple(
        one.name for one in PAIR_FIELDS.values() if (not kinds or one.kind in kinds) and by_loss in (None, one.by_loss)
    )


PLACES = ("index", "line", "pair_in_row")
"""Counts that name a row and measure nothing."""

REASONS = {
    "malformed": "the row is no preference pair, or the tokenizer or the chat template refuses it; `detail` says why",
    "null": "the prompt or an answer is null",
    "identical": "both answers have the same tokens, so there is no preference",
    "empty": "no token of an answer is scored",
    "tie": "the data set does not prefer one of the answers",
    "labels_disagree": "two labels of the row prefer different answers",
    "prompt_too_long": "the prompt alone fills --max-length",
    "too_long_for_model": "the pair has more tokens than the model has learned positions",
    "zero_gradient": "the gradient of an answer is zero, so the cosine is not defined",
    "non_finite": "a log-prob or a gradient is not finite",
    "loss_undefined": "the loss has no finite coefficients for this pair, so it has no movement",
}
"""Why a row was not measured, or why a number is not defined."""

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
