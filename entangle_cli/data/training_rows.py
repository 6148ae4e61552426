"""Rows for TRL's trainers, read and normalised by entangle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from entangle_cli.data.pairs import PairReader, PreferencePair, SkippedRow
from entangle_cli.data.rows import RowSource
from entangle_cli.errors import DataError


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A pair in the form that TRL's trainers take, and its place in the data."""

    index: int
    line: int | None
    file: str | None
    columns: dict[str, Any]
    """`prompt`, `chosen` and `rejected`; `tools` and `chat_template_kwargs` if the row has them."""


def read_training_rows(
    source: RowSource, pairs: PairReader, selected: Sequence[int]
) -> tuple[list[TrainingRow], list[SkippedRow]]:
    """The pairs of the selected rows, and the rows that hold none.

    Raises:
        DataError: the rows hold token ids, or no row holds a pair.
    """
    wanted = set(selected)
    rows: list[TrainingRow] = []
    skipped: list[SkippedRow] = []
    for row in source.rows():
        for pair in pairs.read(row) if row.index in wanted else ():
            if isinstance(pair, SkippedRow):
                skipped.append(pair)
            else:
                rows.append(TrainingRow(pair.index, pair.line, pair.file, _columns(pair)))
    if not rows:
        reason = skipped[0].detail if skipped else "no rows are selected"
        raise DataError(
            f"{source.location}: none of {len(wanted):,} rows holds a pair; {reason}",
            "preference pairs",
            "look at the rows: entangle inspect DATA",
        )
    return rows, skipped


def _columns(pair: PreferencePair) -> dict[str, Any]:
    if pair.tokens is not None:
        raise DataError(
            f"row {pair.index} holds token ids",
            "text or conversations, which TRL's trainers tokenise themselves",
            "give the data from before tokenisation",
        )
    columns: dict[str, Any] = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    if pair.tools:
        columns["tools"] = pair.tools
    if pair.chat_template_kwargs:
        columns["chat_template_kwargs"] = dict(pair.chat_template_kwargs)
    return columns


def as_dataset(rows: Sequence[TrainingRow]) -> datasets.Dataset:
    """The rows as a data set, in order. Columns that only some rows have are null in the others.

    Raises:
        DataError: some rows are texts and others conversations, which no trainer takes together.
    """
    kinds = {type(row.columns["prompt"]) for row in rows}
    if len(kinds) > 1:
        raise DataError(
            "some rows are texts and others are conversations",
            "rows of one kind, as TRL needs them",
            "split the data by kind, and rehearse each",
        )
    return datasets.Dataset.from_list([row.columns for row in rows])
