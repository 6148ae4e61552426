"""Converts raw rows to preference pairs, recognising every row on its own. Unusable rows become a skip reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from entangle_cli.data.formats.column_map import mapped_format
from entangle_cli.data.formats.format import Format, NotAPair
from entangle_cli.data.formats.llama_factory import Description, described_format
from entangle_cli.data.formats.ranking import WAYS, answer_pairs, has_several_answers
from entangle_cli.data.formats.table import TRL, named, recognised
from entangle_cli.data.pair_ids import content_hash, in_one_order, pair_id
from entangle_cli.data.rows import RawRow
from entangle_cli.data.token_ids import TITLE as TOKEN_IDS
from entangle_cli.data.token_ids import holds_token_ids, tokenized_pair
from entangle_cli.data.traps import traps_of_row, unread_columns
from entangle_cli.data.trl_rows import (
    PairFormat,
    Text,
    Unusable,
    extract_prompt,
    kind,
    ref_log_probs,
    refuse_other_tasks,
    shape_of,
    template_arguments,
)
from entangle_cli.errors import UsageError
from entangle_cli.records.measurement import TokenizedPair
from entangle_cli.records.settings import ReadingSettings

SCORE_COLUMNS = (
    ("chosen_score", "score_chosen", "chosen-rating", "chosen_rating"),
    ("rejected_score", "score_rejected", "rejected-rating", "rejected_rating"),
)
"""Names of the columns with the score of the chosen and of the rejected answer."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A pair in TRL's form: the three texts are all strings or all lists of messages."""

    index: int
    line: int | None
    format: str
    """The recognised format, in words."""
    pair_id: str
    prompt: Text
    chosen: Text
    rejected: Text
    tools: list[Any] | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    ref_log_probs: tuple[float, float] | None = None
    """Reference log-probs of chosen and rejected from the row's columns, nats."""
    tokens: TokenizedPair | None = None
    """Tokens of a row of token ids. The three texts are then empty."""
    unordered_id: str | None = None
    """Hash of the pair, independent of the order of its answers."""
    warnings: tuple[str, ...] = ()
    """Codes of `traps`."""
    unread_columns: tuple[str, ...] = ()
    """Columns that hold all or part of a prompt and are not read."""
    chosen_score: float | None = None
    rejected_score: float | None = None
    preference_strength: float | None = None
    """Strength of the preference for the chosen answer, from the data set."""
    file: str | None = None
    pair_in_row: int | None = None
    """Number of the pair within a ranked row, from 0; None if the row holds one pair."""

    def skipped(self, reason: str, detail: str, warnings: tuple[str, ...] = ()) -> SkippedRow:
        """Convert the pair to a skipped row."""
        return SkippedRow(
            self.index, self.line, reason, detail, self.pair_id, True, self.file, self.pair_in_row, warnings
        )


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row or pair that is not measured, with the reason."""

    index: int
    line: int | None
    reason: str
    detail: str
    pair_id: str | None = None
    holds_pair: bool = True
    """False if the row has no chosen and rejected answer at all."""
    file: str | None = None
    pair_in_row: int | None = None
    warnings: tuple[str, ...] = ()


class PairReader:
    """Finds the preference pairs in rows.

    If a row has no prompt, the common start of its answers becomes the prompt, as in TRL's `extract_prompt`: by
    character for strings, by message for conversations.

    Args:
        settings: how to read rows.
        files: source files of the rows. A `dataset_info.json` in their folders may describe them.
        readings: settings of every data set, if they differ from `settings`.
    Raises:
        UsageError: a format, ranking or role is unknown, or a map and a format are both given.
        DataError: a `dataset_info.json` cannot be used.
    """

    def __init__(
        self,
        settings: ReadingSettings | None = None,
        files: Sequence[Path] = (),
        readings: Sequence[ReadingSettings] = (),
    ) -> None:
        self.files = files
        self.readings = readings
        self._of_each = [PairReader(reading, files) for reading in readings]
        settings = settings or ReadingSettings()
        if settings.ranked not in WAYS:
            raise UsageError(f"--ranked {settings.ranked}", f"one of {', '.join(WAYS)}", "use one of these")
        if settings.columns and settings.data_format is not None:
            raise UsageError(f"--map and --data-format {settings.data_format}", "one of the two", "omit one of them")
        self._ranked = settings.ranked
        self._reads_as_trl = settings.data_format == TRL
        self._forced: Format | None = None
        self._described: dict[str | None, Description] = {}
        if settings.columns:
            self._forced = mapped_format(settings.columns)
        elif settings.data_format is not None:
            self._forced = named(settings.data_format)
        else:
            self._described = {
                str(file): description for file in files if (description := described_format(file)) is not None
            }
            if self._described and len(files) == 1:
                # Rows of a single-file data set do not always have a file name.
                self._described |= {None: next(iter(self._described.values()))}

    @property
    def identity(self) -> dict[str, Any]:
        """Descriptions of the files and readings of single data sets, which affect how rows are read; JSON-able."""
        described = {file: each.entry for file, each in self._described.items() if file is not None}
        readings = [{"columns": dict(each.columns), "data_format": each.data_format} for each in self.readings]
        return {**({"described": described} if described else {}), **({"read_as": readings} if readings else {})}

    def read(self, row: RawRow) -> list[PreferencePair | SkippedRow]:
        """The pairs and skip reasons of a row, at least one in total."""
        if self._of_each:
            return self._of_each[row.source].read(row)
        try:
            if row.problem is not None:
                raise Unusable("malformed", row.problem)
            if not isinstance(row.value, dict):
                raise Unusable("malformed", f"a {kind(row.value)} where an object was expected")
            return [self._with_parsing(pair, row) for pair in self._pairs(row, row.value)]
        except RecursionError:
            return [_skipped(row, Unusable("malformed", "nested too deeply"))]
        except Unusable as unusable:
            return [_skipped(row, unusable)]
        except NotAPair as error:
            return [_skipped(row, Unusable(error.reason, error.detail, holds_pair=True))]

    def _pairs(self, row: RawRow, value: dict[str, Any]) -> Iterator[PreferencePair | SkippedRow]:
        format_of_row = self._format_of(value, row.file)
        if format_of_row is None:
            yield _pair_of_ids(row, value) if self._is_token_ids(value) else _pair(row, value, None)
            return
        rewritten = _rewritten(value, format_of_row)
        title = format_of_row.title
        if not has_several_answers(rewritten):
            yield _pair(row, rewritten, title)
            return
        for number, (better, worse) in enumerate(answer_pairs(rewritten, self._ranked)):
            pair_in_row = number if self._ranked != WAYS[0] else None
            if better.rank == worse.rank:
                tie = Unusable("tie", "two answers with the same rank", holds_pair=True)
                yield replace(_skipped(row, tie), pair_in_row=pair_in_row)
                continue
            both = {"chosen": better.answer, "rejected": worse.answer}
            if "ranked" in rewritten:
                both["preference_strength"] = worse.rank - better.rank
            try:
                yield replace(_pair(row, {**rewritten, **both}, title), pair_in_row=pair_in_row)
            except Unusable as unusable:
                yield replace(_skipped(row, unusable), pair_in_row=pair_in_row)

    @staticmethod
    def _with_parsing(pair: PreferencePair | SkippedRow, row: RawRow) -> PreferencePair | SkippedRow:
        """Add the parser's warnings of a row to its pair."""
        return replace(pair, warnings=(*row.warnings, *pair.warnings)) if row.warnings else pair

    def _is_token_ids(self, value: Mapping[str, Any]) -> bool:
        has_text = "chosen" in value and "rejected" in value
        return not self._reads_as_trl and not has_text and holds_token_ids(value)

    def _format_of(self, value: Mapping[str, Any], file: str | None) -> Format | None:
        """The format to rewrite a row from; None for TRL's own and for unknown formats.

        Raises:
            Unusable: several formats match the row.
        """
        if file in self._described:
            return self._described[file].format
        if self._forced is not None or self._reads_as_trl:
            return self._forced
        matching = recognised(value)
        if len(matching) + self._is_token_ids(value) > 1:
            titles = [known.title for known in matching] + [TOKEN_IDS] * self._is_token_ids(value)
            detail = f"the row has the columns of {' and of '.join(titles)}; choose one with --data-format"
            raise Unusable("malformed", detail, holds_pair=True)
        return matching[0] if matching else None


def _skipped(row: RawRow, unusable: Unusable) -> SkippedRow:
    return SkippedRow(
        row.index, row.line, unusable.reason, unusable.detail, holds_pair=unusable.holds_pair, file=row.file
    )


def _rewritten(value: dict[str, Any], known: Format) -> dict[str, Any]:
    """Rewrite a row for TRL. Other columns stay unchanged."""
    try:
        pair = known.rewrite(value)
    except KeyError as error:
        raise Unusable("malformed", f"{known.title}: no column {error}", holds_pair=True) from error
    except (TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
        detail = f"the columns of {known.title} have invalid content: {error}"
        raise Unusable("malformed", detail, holds_pair=True) from error
    return {**{name: item for name, item in value.items() if name not in {"prompt", "chosen", "rejected"}}, **pair}


def _pair(row: RawRow, value: dict[str, Any], rewritten_from: str | None) -> PreferencePair:
    """The pair in a row of TRL's shape."""
    refuse_other_tasks(value)
    chosen, rejected, prompt = value["chosen"], value["rejected"], value.get("prompt")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if answer is None:
            raise Unusable("null", f'"{name}" is null', holds_pair=True)
        if answer == [] or (prompt is None and not answer):
            raise Unusable("empty", f'"{name}" is empty; TRL does not accept that', holds_pair=True)
    pair_format = shape_of(prompt, chosen, rejected)
    if chosen == rejected:
        raise Unusable("identical", "the two answers are the same", holds_pair=True)
    is_implicit = prompt is None
    if is_implicit:
        prompt, chosen, rejected = extract_prompt(chosen, rejected)
        if isinstance(prompt, list) and not prompt:
            raise Unusable("malformed", "the two conversations share no first message", holds_pair=True)
    assert prompt is not None
    tools, kwargs = template_arguments(value)
    chosen_names, rejected_names = SCORE_COLUMNS
    scores = (_number(value, *chosen_names), _number(value, *rejected_names))
    traps = traps_of_row(
        row.value,
        prompt,
        (chosen, rejected),
        scores,
        read_by_trl=rewritten_from is None,
        is_transcript=rewritten_from is None and pair_format is PairFormat.TRANSCRIPT,
        is_implicit=is_implicit,
    )
    first, second = in_one_order(chosen, rejected)
    return PreferencePair(
        index=row.index,
        line=row.line,
        format=rewritten_from or pair_format.value,
        pair_id=pair_id(prompt, chosen, rejected, tools, kwargs),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        tools=tools,
        chat_template_kwargs=kwargs,
        ref_log_probs=ref_log_probs(value),
        unordered_id=pair_id(prompt, first, second, tools, kwargs),
        warnings=tuple(traps),
        unread_columns=unread_columns(row.value, read_by_trl=rewritten_from is None),
        chosen_score=scores[0],
        rejected_score=scores[1],
        preference_strength=_number(value, "preference_strength", "margin"),
        file=row.file,
    )


def _pair_of_ids(row: RawRow, value: dict[str, Any]) -> PreferencePair:
    tokens = tokenized_pair(value)
    sides = [(list(side.ids), side.first_scored) for side in (tokens.chosen, tokens.rejected)]
    return PreferencePair(
        index=row.index,
        line=row.line,
        format=TOKEN_IDS,
        pair_id=content_hash([sides]),
        prompt="",
        chosen="",
        rejected="",
        ref_log_probs=ref_log_probs(value),
        tokens=tokens,
        unordered_id=content_hash([sorted(sides)]),
        file=row.file,
    )


def _number(value: Mapping[str, Any], *names: str) -> float | None:
    """The first finite number in some columns. Invalid values are ignored, because the columns are optional."""
    for name in names:
        try:
            number = float(value[name])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(number) and not isinstance(value[name], bool):
            return number
    return None
