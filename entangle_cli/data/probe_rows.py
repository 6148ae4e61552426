"""Probe pairs: a few rows of a training set and of a held-out set, drawn from objects of the caller."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

from entangle_cli.data.rows import RawRow, RowSource
from entangle_cli.data.token_ids import BY_LABELS, BY_PROMPT, holds_token_ids
from entangle_cli.data.trl_rows import REF_COLUMNS
from entangle_cli.errors import DataError

TOKEN_COLUMNS = frozenset(name for names in (BY_LABELS, *BY_PROMPT, *REF_COLUMNS) for name in names)
"""Columns to read from rows that a trainer has tokenised. Its text columns would be read as a second pair."""


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """Rows drawn from one data set."""

    name: str
    rows: Mapping[int, Mapping[str, Any]]
    """By index in the data set."""
    num_rows: int
    """Rows of the data set; those drawn if it is a stream."""


def draw(name: str, rows: Any, number: int, seed: int) -> ProbeSet:
    """Draw rows at random from a `datasets.Dataset` or a sequence. From a stream, take the first ones.

    Raises:
        DataError: there are no rows, or not a collection of rows.
    """
    if not isinstance(rows, Iterable) or isinstance(rows, str | Mapping):
        raise DataError(
            f"{name} pairs: a {type(rows).__name__}",
            "a datasets.Dataset or a list of rows",
            "pass one, for example datasets.load_dataset(...)['train']",
        )
    drawn: dict[int, Mapping[str, Any]]
    if isinstance(rows, Sized) and hasattr(rows, "__getitem__"):
        num_rows = len(rows)
        chosen = sorted(random.Random(seed).sample(range(num_rows), min(number, num_rows)))
        drawn = {index: rows[index] for index in chosen}
    else:
        drawn = dict(enumerate(islice(rows, number)))
        num_rows = len(drawn)
    if not drawn:
        raise DataError(f"{name} pairs: no rows", "at least one preference pair", "pass data that are not empty")
    return ProbeSet(name, {index: _as_tokenised(row) for index, row in drawn.items()}, num_rows)


def _as_tokenised(row: Any) -> Any:
    if not isinstance(row, Mapping) or not holds_token_ids(row):
        return row
    return {name: value for name, value in row.items() if name in TOKEN_COLUMNS}


class ProbeRows(RowSource):
    """The rows of several probe sets. They are numbered as if the data sets were joined; `file` names the set."""

    kind = "probe pairs"

    def __init__(self, sets: Sequence[ProbeSet]) -> None:
        self.sets = sets
        self.name = self.location = " and ".join(each.name for each in sets) + " pairs"
        self.num_rows = sum(each.num_rows for each in sets)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, number of rows and of drawn rows; for each set its name, the hash of its drawn rows, and its rows."""
        sources = [{"name": each.name, "sha256": _sha256(each.rows), "rows": each.num_rows} for each in self.sets]
        return {"name": self.name, "sources": sources, "rows": self.num_rows, "probes": len(self.indices)}

    @property
    def indices(self) -> Sequence[int]:
        """The index of every drawn row, in order."""
        return [row.index for row in self.rows()]

    def rows(self) -> Iterator[RawRow]:
        """The drawn rows, in order."""
        start = 0
        for each in self.sets:
            for index, value in each.rows.items():
                yield RawRow(start + index, value, file=each.name)
            start += each.num_rows


def _sha256(rows: Mapping[int, Any]) -> str:
    digest = hashlib.sha256()
    for index, row in rows.items():
        digest.update(json.dumps([index, row], sort_keys=True, default=str).encode("utf-8", "backslashreplace") + b"\n")
    return digest.hexdigest()
