"""A data set looked at before any model computes: formats, counts, lengths, traps, the first pairs as they are read."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np

from entangle_cli.analysis.repetition import repetition
from entangle_cli.analysis.statistics import quantiles
from entangle_cli.data.pairs import PairReader, PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow, RowSource
from entangle_cli.data.sources import open_source
from entangle_cli.data.tokenize import TokenizedRow
from entangle_cli.data.traps import text_of
from entangle_cli.diagnose.views.first_rows import PEEKED_ROWS, refuse_unknown_columns
from entangle_cli.diagnose.views.notices import data_notices
from entangle_cli.records.run import Notice
from entangle_cli.records.settings import ReadingSettings

NUM_PAIRS = 3
NUM_SKIPPED = 5
LEVELS = {"p05": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}

Tokenize = Callable[[PreferencePair], TokenizedRow | SkippedRow]
Decode = Callable[[int], str]


class Inspection:
    """Takes rows one by one. A file of any size needs little memory.

    Args:
        reader: finds the pairs in rows.
        tokenize: turns a pair into token ids; None without a model.
        decode: a token id as text; None without a model.
        checkpoint_warnings: code to sentence on the model's tokenizer.
    """

    def __init__(
        self,
        reader: PairReader,
        tokenize: Tokenize | None,
        decode: Decode | None,
        checkpoint_warnings: Mapping[str, str] | None = None,
    ) -> None:
        self._reader = reader
        self._checkpoint_warnings = checkpoint_warnings or {}
        self._tokenize = tokenize
        self._decode = decode
        self.rows = 0
        self._columns: Counter[str] = Counter()
        self._formats: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._skipped: list[dict[str, Any]] = []
        self._pairs: list[dict[str, Any]] = []
        self._lengths: dict[str, array[int]] = {}
        self._ids = array("q")
        self._unordered_ids = array("q")
        self._traps: Counter[str] = Counter()
        self._unread: set[str] = set()

    def add(self, row: RawRow) -> None:
        """Look at one row."""
        self.rows += 1
        if isinstance(row.value, dict):
            self._columns.update(name for name, value in row.value.items() if value is not None)
        for pair in self._reader.read(row):
            if isinstance(pair, SkippedRow):
                self._skip(pair)
            else:
                self._add_pair(pair)

    def _add_pair(self, pair: PreferencePair) -> None:
        tokens = None if self._tokenize is None else self._tokenize(pair)
        if isinstance(tokens, SkippedRow):
            self._skip(tokens)
            return
        self._formats[pair.format] += 1
        self._note_traps(pair, tokens)
        self._note_lengths(pair, tokens)
        if len(self._pairs) < NUM_PAIRS:
            self._pairs.append(self._shown(pair, tokens))

    def _skip(self, row: SkippedRow) -> None:
        self._reasons[row.reason] += 1
        self._traps.update(row.warnings)
        if len(self._skipped) < NUM_SKIPPED:
            names = ("index", "file", "line", "pair_in_row", "reason", "detail")
            self._skipped.append({name: getattr(row, name) for name in names})

    def _note_traps(self, pair: PreferencePair, tokens: TokenizedRow | None) -> None:
        self._ids.append(hash(pair.pair_id))
        self._unordered_ids.append(hash(pair.unordered_id))
        self._traps.update(pair.warnings)
        self._unread.update(pair.unread_columns)
        if tokens is not None:
            self._traps.update(tokens.warnings)

    def _note_lengths(self, pair: PreferencePair, tokens: TokenizedRow | None) -> None:
        for name, part in (("prompt", pair.prompt), ("chosen", pair.chosen), ("rejected", pair.rejected)):
            if pair.tokens is None:
                self._lengths.setdefault(f"{name}, characters", array("q")).append(len(text_of(part)))
        if tokens is not None:
            counts = (tokens.prompt_tokens, tokens.pair.chosen.num_scored, tokens.pair.rejected.num_scored)
            for name, count in zip(("prompt", "chosen", "rejected"), counts, strict=True):
                self._lengths.setdefault(f"{name}, tokens", array("q")).append(count)

    def _shown(self, pair: PreferencePair, tokens: TokenizedRow | None) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "index": pair.index,
            "file": pair.file,
            "line": pair.line,
            "pair_in_row": pair.pair_in_row,
            "format": pair.format,
            "prompt": pair.prompt,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
        }
        if pair.tokens is not None:
            for name, response in (("chosen", pair.tokens.chosen), ("rejected", pair.tokens.rejected)):
                ids, first = list(response.ids), response.first_scored
                shown[f"{name}_ids"] = {"not_scored": ids[:first], "scored": ids[first:]}
        if tokens is not None and self._decode is not None:
            for name, response in (("chosen", tokens.pair.chosen), ("rejected", tokens.pair.rejected)):
                pieces = [self._decode(token) for token in response.ids]
                first = response.first_scored
                shown[f"{name}_tokens"] = {"not_scored": pieces[:first], "scored": pieces[first:]}
        return shown

    def document(self, source: RowSource) -> dict[str, Any]:
        """Everything that was found, JSON-able."""
        return {
            "schema": "entangle.inspection",
            "schema_version": "1.0",
            "data": {"name": source.name, "kind": source.kind, "rows": source.num_rows, "looked_at": self.rows},
            "columns": dict(self._columns),
            "formats": dict(self._formats.most_common()),
            "usable": sum(self._formats.values()),
            "reasons": dict(self._reasons.most_common()),
            "skipped": self._skipped,
            "lengths": {name: _quantiles(values) for name, values in self._lengths.items()},
            "notices": [asdict(notice) for notice in self._notices()],
            "pairs": self._pairs,
        }

    def _notices(self) -> Iterator[Notice]:
        repeated, contradicted = repetition(
            np.frombuffer(self._ids, dtype=np.int64), np.frombuffer(self._unordered_ids, dtype=np.int64)
        )
        counts = {**self._traps, "W-DUPLICATE": repeated, "W-CONTRADICTION": contradicted}
        yield from data_notices(counts, self._unread)
        for code, message in self._checkpoint_warnings.items():
            yield Notice(code, message)


def _quantiles(values: array[int]) -> dict[str, float]:
    found = quantiles(np.array(values, dtype=np.float64), list(LEVELS.values()))
    assert found is not None
    return dict(zip(LEVELS, found, strict=True))


def inspect_rows(
    data: str | Sequence[str],
    reading: ReadingSettings,
    limit: int | None,
    tokenize: Tokenize | None = None,
    decode: Decode | None = None,
    checkpoint_warnings: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Look at the rows of a data set.

    Args:
        limit: only the first rows.
        tokenize, decode, checkpoint_warnings: of a model's tokenizer; None to look at the text only.
    Returns:
        What `Inspection.document` gives.
    Raises:
        DataError: the data cannot be read.
        UsageError: an unknown setting, or a map with a column that no row has.
    """
    source = open_source(data, reading, limit)
    refuse_unknown_columns(source, list(islice(source.rows(), PEEKED_ROWS)), reading)
    inspection = Inspection(PairReader(reading, source.files, source.readings), tokenize, decode, checkpoint_warnings)
    for row in islice(source.rows(), limit):
        inspection.add(row)
    return inspection.document(source)
