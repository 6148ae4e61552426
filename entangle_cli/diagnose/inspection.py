"""A data set looked at before any model computes: formats, counts, lengths, traps, the first pairs as they are read."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from entangle_cli.analysis.statistics import quantiles
from entangle_cli.data.pairs import PairFormat, PreferencePair, SkippedRow, Text, read_pair
from entangle_cli.data.rows import RawRow, RowSource, open_source
from entangle_cli.data.tokenize import TokenizedRow
from entangle_cli.records import Notice

NUM_PAIRS = 3
NUM_SKIPPED = 5
LEVELS = {"p05": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}

QUESTION_COLUMNS = ("question", "instruction", "input", "query", "history", "context")
"""Columns that hold a prompt under another name, which TRL would not see."""

Tokenize = Callable[[PreferencePair], TokenizedRow | SkippedRow]
Decode = Callable[[int], str]


class Inspection:
    """Takes rows one by one, so that a file of any size is looked at in little memory.

    Args:
        tokenize: turns a pair into token ids; None without a model.
    """

    def __init__(self, tokenize: Tokenize | None, decode: Decode | None) -> None:
        self._tokenize = tokenize
        self._decode = decode
        self.rows = 0
        self._columns: Counter[str] = Counter()
        self._formats: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._skipped: list[dict[str, Any]] = []
        self._pairs: list[dict[str, Any]] = []
        self._lengths: dict[str, array[int]] = {}
        self._ids: Counter[int] = Counter()
        # A prompt with two answers, as a hash, to the orders in which they were preferred, as bits.
        self._orders: dict[int, int] = {}
        self._traps: Counter[str] = Counter()

    def add(self, row: RawRow, data_format: str | None) -> None:
        """Look at one row."""
        self.rows += 1
        if isinstance(row.value, dict):
            self._columns.update(name for name, value in row.value.items() if value is not None)
        pair = read_pair(row, data_format)
        if isinstance(pair, SkippedRow):
            self._skip(pair)
            return
        tokens = None if self._tokenize is None else self._tokenize(pair)
        if isinstance(tokens, SkippedRow):
            self._skip(tokens)
            return
        self._formats[pair.format] += 1
        self._note_traps(pair, row.value, tokens)
        self._note_lengths(pair, tokens)
        if len(self._pairs) < NUM_PAIRS:
            self._pairs.append(self._shown(pair, tokens))

    def _skip(self, row: SkippedRow) -> None:
        self._reasons[row.reason] += 1
        if len(self._skipped) < NUM_SKIPPED:
            self._skipped.append({"index": row.index, "line": row.line, "reason": row.reason, "detail": row.detail})

    def _note_traps(self, pair: PreferencePair, value: dict[str, Any], tokens: TokenizedRow | None) -> None:
        self._ids[hash(pair.pair_id)] += 1
        prompt, chosen, rejected = (hash(str(part)) for part in (pair.prompt, pair.chosen, pair.rejected))
        answers = hash((prompt, frozenset((chosen, rejected))))
        self._orders[answers] = self._orders.get(answers, 0) | (1 if chosen < rejected else 2)
        read_by_trl = pair.format in {known.value for known in PairFormat}
        self._traps["W-PROMPT-EMPTY"] += not _text(pair.prompt).strip()
        self._traps["W-SYSTEM-UNUSED"] += read_by_trl and bool(value.get("system"))
        ignored = read_by_trl and value.get("prompt") is None and any(value.get(name) for name in QUESTION_COLUMNS)
        self._traps["W-QUESTION-UNUSED"] += ignored
        self._traps["W-TRANSCRIPT"] += pair.format == PairFormat.TRANSCRIPT.value
        if tokens is not None:
            self._traps["W-BOUNDARY"] += tokens.boundary_moved
            self._traps["W-TRUNCATED"] += tokens.pair.chosen.truncated or tokens.pair.rejected.truncated

    def _note_lengths(self, pair: PreferencePair, tokens: TokenizedRow | None) -> None:
        for name, part in (("prompt", pair.prompt), ("chosen", pair.chosen), ("rejected", pair.rejected)):
            self._lengths.setdefault(f"{name}, characters", array("q")).append(len(_text(part)))
        if tokens is not None:
            counts = (tokens.prompt_tokens, tokens.pair.chosen.num_scored, tokens.pair.rejected.num_scored)
            for name, count in zip(("prompt", "chosen", "rejected"), counts, strict=True):
                self._lengths.setdefault(f"{name}, tokens", array("q")).append(count)

    def _shown(self, pair: PreferencePair, tokens: TokenizedRow | None) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "index": pair.index,
            "line": pair.line,
            "format": pair.format,
            "prompt": pair.prompt,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
        }
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
            "data": {"name": source.path.name, "kind": source.kind, "rows": source.num_rows, "looked_at": self.rows},
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
        repeated = sum(count - 1 for count in self._ids.values())
        contradicted = sum(orders == 3 for orders in self._orders.values())
        counts = {**self._traps, "W-DUPLICATE": repeated, "W-CONTRADICTION": contradicted}
        for code, message in MESSAGES.items():
            if counts.get(code):
                yield Notice(code, message, counts[code])


MESSAGES = {
    "W-QUESTION-UNUSED": "the prompt stands in a column that TRL does not read: it would train on the answers alone; "
    "--data-format orca or alpaca takes it",
    "W-PROMPT-EMPTY": "the prompt is empty",
    "W-SYSTEM-UNUSED": "a system column that TRL does not read",
    "W-TRANSCRIPT": "transcripts: the prompt is all that the two texts share, character by character, as TRL takes it; "
    "--data-format hh splits them at their turns",
    "W-BOUNDARY": "the tokenised prompt is no prefix of prompt and answer; as in TRL, scoring starts where they part",
    "W-TRUNCATED": "a response was cut at --max-length",
    "W-CONTRADICTION": "the same two answers to the same prompt, preferred both ways",
    "W-DUPLICATE": "rows that repeat an earlier pair",
}


def _text(part: Text) -> str:
    """All the words of a text or of messages."""
    if isinstance(part, str):
        return part
    return "\n".join(_content(message.get("content")) for message in part)


def _content(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(block.get("text", "")) for block in content)
    return "" if content is None else str(content)


def _quantiles(values: array[int]) -> dict[str, float]:
    found = quantiles(np.array(values, dtype=np.float64), list(LEVELS.values()))
    assert found is not None
    return dict(zip(LEVELS, found, strict=True))


def opened_source(path: Path, split: str | None) -> RowSource:
    """The rows of a data set; see `data.rows.open_source`."""
    return open_source(path, split)


def inspect_rows(
    source: RowSource,
    data_format: str | None,
    limit: int | None,
    tokenize: Tokenize | None = None,
    decode: Decode | None = None,
) -> dict[str, Any]:
    """Look at the rows of a data set.

    Args:
        limit: only the first rows.
        tokenize, decode: a model's tokenizer; None to look at the text only.
    Returns:
        What `Inspection.document` gives.
    """
    inspection = Inspection(tokenize, decode)
    for row in islice(source.rows(), limit):
        inspection.add(row, data_format)
    return inspection.document(source)
