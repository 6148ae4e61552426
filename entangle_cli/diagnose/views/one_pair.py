"""One pair of a run with its text: from the run where it was kept, else from the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from entangle_cli.analysis.reasons import pair_reason
from entangle_cli.analysis.shared_words import shared_pieces
from entangle_cli.data.pairs import PairReader, PreferencePair
from entangle_cli.data.traps import plain_text
from entangle_cli.diagnose.views.run_data import data_of_run, reading_of_run
from entangle_cli.errors import DataError, UsageError
from entangle_cli.records.columns import Columns, rows_of, taken
from entangle_cli.records.run import Run


def pair_document(
    run: Run, columns: Columns, row: int | None, line: int | None, pair_in_row: int | None, data: str | None
) -> dict[str, Any]:
    """One pair in numbers and words, JSON-able.

    Args:
        columns: the run's, seen under its loss.
        row: its `index`; None to find it by line.
        line: its line in the data file.
        pair_in_row: which pair of a ranked row; None for the first.
        data: where to read the text; None for the text that the run holds.
    Returns:
        `pair`, every field by name; `why`, one sentence; `text` with `prompt`, and `chosen` and `rejected` in pieces
        of `text` and `is_shared`, or None where no text is at hand.
    Raises:
        UsageError: the run has no such pair, or more than one.
        DataError: the data are not those of the run.
    """
    pair = next(rows_of(taken(columns, [_place(run, columns, row, line, pair_in_row)])))
    texts = {side: pair[f"{side}_text"] for side in ("prompt", "chosen", "rejected")}
    if data is not None:
        texts = _read_texts(run, pair, data)
    document = {"run": run.place, "pair": pair, "why": pair_reason(pair), "text": None}
    if texts["chosen"] is None or texts["rejected"] is None:
        return document
    chosen, rejected = shared_pieces(texts["chosen"], texts["rejected"])
    pieces = {"chosen": chosen, "rejected": rejected}
    shown = {side: [piece._asdict() for piece in found] for side, found in pieces.items()}
    return document | {"text": {"prompt": texts["prompt"] or "", **shown}}


def _place(run: Run, columns: Columns, row: int | None, line: int | None, pair_in_row: int | None) -> int:
    name, wanted = ("index", row) if row is not None else ("line", line)
    places = np.flatnonzero(columns[name] == wanted)
    words = f"--{'row' if name == 'index' else 'line'} {wanted}"
    if not len(places):
        known = columns[name][~np.isnan(columns[name])]
        expected = f"{known.min():.0f} to {known.max():.0f}" if len(known) else "--row: these rows have no lines"
        raise UsageError(
            f"{words}: {run.place} has no such row", expected, "see entangle report --format csv", topic="reports"
        )
    if len({columns["file"][place] for place in places}) > 1:
        rows = ", ".join(f"{columns['index'][place]:.0f}" for place in places[:5])
        raise UsageError(
            f"{words}: a row in several files", "one row", f"name it by --row, one of {rows}", topic="reports"
        )
    if pair_in_row is not None:
        places = places[columns["pair_in_row"][places] == pair_in_row]
        if not len(places):
            raise UsageError(
                f"{words} --pair-in-row {pair_in_row}: the row has no such pair",
                "a number from 0",
                "name another pair",
                topic="reports",
            )
    return int(places[0])


def _read_texts(run: Run, pair: Mapping[str, Any], data: str) -> dict[str, str | None]:
    """The texts of a pair, from the data that it was measured on."""
    source, start = data_of_run(run, data)
    reader = PairReader(reading_of_run(run), source.files)
    row = next((row for row in source.rows() if row.index == pair["index"] - start), None)
    for each in [] if row is None else reader.read(row):
        if isinstance(each, PreferencePair) and each.pair_id == pair["pair_id"]:
            parts = {"prompt": each.prompt, "chosen": each.chosen, "rejected": each.rejected}
            return {side: plain_text(part) for side, part in parts.items()}
    raise DataError(
        f"{data}: row {pair['index']} does not hold the pair that {run.place} measured",
        "the data that the run was scanned from",
        "name that data set, or scan again with --include-text",
    )
