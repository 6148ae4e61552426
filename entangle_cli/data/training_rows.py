"""Rows for TRL's trainers, read and normalised by entangle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    pair_in_row: int | None
    columns: dict[str, Any]
    """`prompt`, `chosen` and `rejected`; `tools` and `chat_template_kwargs` if the row has them."""


def read_training_rows(
    source: RowSource, pairs: PairReader, selected: Sequence[int]
) -> tuple[list[TrainingRow], list[SkippedRow]]:
    """The pairs of the selected rows, and the rows that hold none.

    Raises:
        DataError: the rows hold token ids, or no row holds a pair.
    """
    rows: list[TrainingRow] = []
    skipped: list[SkippedRow] = []
    for row in source.rows_at(selected):
        for pair in pairs.read(row):
            if isinstance(pair, SkippedRow):
                skipped.append(pair)
            else:
                rows.append(TrainingRow(pair.index, pair.line, pair.file, pair.pair_in_row, _columns(pair)))
    if not rows:
        reason = skipped[0].detail if skipped else "no rows are selected"
        raise DataError(
            f"{source.location}: none of {len(selected):,} rows holds a pair; {reason}",
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


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the progress bars of `datasets` inside the block."""
    were_shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            datasets.enable_progress_bars()


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
