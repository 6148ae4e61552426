"""Builds the record of a row."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import isfinite, sqrt

from entangle_cli.analysis.alignment import edit_distance, shared_suffix
from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.tokenize import TokenizedRow
from entangle_cli.data.traps import plain_text
from entangle_cli.diagnose.views.movements import DerivedFields
from entangle_cli.records.measurement import PairMeasurement, TokenizedPair, shared_prefix
from entangle_cli.records.pair import LayerRecord, PairRecord, Status


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """A tokenised row, ready to be measured."""

    pair: PreferencePair
    tokens: TokenizedRow


def skipped_record(row: SkippedRow) -> PairRecord:
    """The record of a row that is not measured."""
    return PairRecord(
        row.index,
        row.pair_id,
        Status.SKIPPED.value,
        reason=row.reason,
        detail=row.detail,
        line=row.line,
        file=row.file,
        pair_in_row=row.pair_in_row,
        warnings=" ".join(row.warnings) or None,
    )


def pair_record(row: PreparedRow, measured: PairMeasurement, derived: DerivedFields) -> PairRecord:
    """The record of a measured pair. Values that are not finite become null; required ones also set a reason."""
    numbers = asdict(replace(measured, groups=()))
    del numbers["groups"]
    needed = (measured.chosen_squared_norm, measured.rejected_squared_norm, measured.inner_product)
    finite = all(map(isfinite, (*needed, measured.chosen_log_prob, measured.rejected_log_prob)))
    vanishes = finite and min(needed[:2]) <= 0.0
    reason = None if finite and not vanishes else "zero_gradient" if finite else "non_finite"
    known = {name: value if value is not None and isfinite(value) else None for name, value in numbers.items()}
    chosen, rejected = row.tokens.pair.chosen, row.tokens.pair.rejected
    chosen_scored, rejected_scored = chosen.ids[chosen.first_scored :], rejected.ids[rejected.first_scored :]
    record = PairRecord(
        index=row.pair.index,
        pair_id=row.pair.pair_id,
        status=(Status.OK if reason is None else Status.UNDEFINED).value,
        reason=reason,
        boundary_moved=row.tokens.boundary_moved,
        prompt_tokens=row.tokens.prompt_tokens,
        chosen_tokens=chosen.num_scored,
        rejected_tokens=rejected.num_scored,
        chosen_truncated=chosen.truncated,
        rejected_truncated=rejected.truncated,
        chosen_log_prob=known["chosen_log_prob"],
        rejected_log_prob=known["rejected_log_prob"],
        chosen_grad_norm=_root(known["chosen_squared_norm"]),
        rejected_grad_norm=_root(known["rejected_squared_norm"]),
        inner_product=known["inner_product"],
        cosine=derived.cosine if reason is None else None,
        norm_ratio=derived.norm_ratio if reason is None else None,
        chosen_condition=derived.chosen_condition if reason is None else None,
        rejected_condition=derived.rejected_condition if reason is None else None,
        ches=known["ches"],
        length_normalised_ches=known["length_normalised_ches"],
        head_inner_product=known["head_inner_product"],
        edit_distance=edit_distance(chosen_scored, rejected_scored),
        shared_prefix_tokens=shared_prefix(chosen_scored, rejected_scored),
        shared_suffix_tokens=shared_suffix(chosen_scored, rejected_scored),
    )
    return with_references(with_row_fields(record, row), row)


def with_row_fields(record: PairRecord, row: PreparedRow) -> PairRecord:
    """The record with the row's location, format, warnings and scores."""
    pair = row.pair
    return replace(
        record,
        index=pair.index,
        line=pair.line,
        file=pair.file,
        pair_in_row=pair.pair_in_row,
        format=pair.format,
        warnings=" ".join((*pair.warnings, *row.tokens.warnings)) or None,
        unread_columns=" ".join(pair.unread_columns) or None,
        unordered_id=pair.unordered_id,
        chosen_score=pair.chosen_score,
        rejected_score=pair.rejected_score,
        preference_strength=pair.preference_strength,
    )


def with_references(record: PairRecord, row: PreparedRow) -> PairRecord:
    """The record with the reference log-probs from the row; None if the row has none."""
    chosen, rejected = row.pair.ref_log_probs or (None, None)
    return replace(record, chosen_ref_log_prob=chosen, rejected_ref_log_prob=rejected)


def with_text(record: PairRecord, row: PreparedRow) -> PairRecord:
    """The record with the pair's text."""
    prompt, chosen, rejected = (plain_text(part) for part in (row.pair.prompt, row.pair.chosen, row.pair.rejected))
    return replace(record, prompt_text=prompt, chosen_text=chosen, rejected_text=rejected)


def layer_records(row: PreparedRow, measured: PairMeasurement) -> list[LayerRecord]:
    """The products of a pair for each group of parameters."""
    return [LayerRecord(row.pair.index, row.pair.pair_in_row, group) for group in measured.groups]


def _root(squared_norm: float | None) -> float | None:
    return None if squared_norm is None else sqrt(max(0.0, squared_norm))


def without_shared_prefix(pair: TokenizedPair) -> TokenizedPair | None:
    """The pair with the common start of both answers moved into the prompt.

    These tokens have equal gradients in both answers: g_c = p + a and g_r = p + b. The new pair has gradients a and b.
    None if one answer is the start of the other.
    """
    chosen, rejected = pair.chosen, pair.rejected
    shared = shared_prefix(chosen.ids[chosen.first_scored :], rejected.ids[rejected.first_scored :])
    if shared >= min(chosen.num_scored, rejected.num_scored):
        return None
    return TokenizedPair(
        replace(chosen, first_scored=chosen.first_scored + shared),
        replace(rejected, first_scored=rejected.first_scored + shared),
    )
