"""Models and data that are objects of the caller's, as in a notebook."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from entangle_cli.data.rows import RawRow, RowSource
from entangle_cli.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class ModelInMemory:
    """A causal LM that is loaded, with its tokenizer. It is measured where it is and as it is."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def name(self) -> str:
        """Where it came from, as transformers remembers."""
        return str(getattr(self.model, "name_or_path", "") or type(self.model).__name__)


class RowsInMemory(RowSource):
    """Rows of a `datasets.Dataset` or a list."""

    kind = "rows in memory"

    def __init__(self, rows: Sequence[Any] | Iterable[Any]) -> None:
        self.location = self.name = "rows in memory"
        self._rows: Any = rows
        digest = hashlib.sha256()
        self.num_rows = 0
        for row in rows:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode("utf-8", "backslashreplace") + b"\n")
            self.num_rows += 1
        self._sha256 = digest.hexdigest()
        if not self.num_rows:
            raise DataError(
                "rows in memory: no rows", "at least one preference pair", "check that the data are complete"
            )

    @property
    def identity(self) -> Mapping[str, Any]:
        """Hash and number of the rows."""
        return {"name": self.name, "sha256": self._sha256, "rows": self.num_rows}

    def rows(self) -> Iterator[RawRow]:
        """All rows, in order."""
        return (RawRow(index, row) for index, row in enumerate(self._rows))


def is_rows(data: Any) -> bool:
    """Whether data are rows rather than names of files."""
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        return False
    if isinstance(data, list | tuple):
        return not data or not all(isinstance(each, str) or hasattr(each, "__fspath__") for each in data)
    return True
