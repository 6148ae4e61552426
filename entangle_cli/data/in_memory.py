"""Models and data that are objects of the caller's, as in a notebook."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from entangle_cli.data.rows import RawRow, RowSource
from entangle_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def model_in_memory(model: Any) -> ModelInMemory:
    """A model and its tokenizer, as callers give them.

    Raises:
        UsageError: not a pair of the two.
    """
    if isinstance(model, tuple) and len(model) == 2:
        return ModelInMemory(*model)
    raise UsageError(
        f"a {type(model).__name__} as the model",
        "a folder, a name on the hub, or a pair of a transformers model and its tokenizer",
        "write scan((model, tokenizer), data)",
    )


@contextmanager
def modes_kept(model: PreTrainedModel) -> Iterator[None]:
    """Put every module back into training or evaluation mode afterwards, as the caller had it."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training


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

    def __init__(self, rows: Iterable[Any]) -> None:
        self.location = self.name = "rows in memory"
        self._rows = list(rows) if isinstance(rows, Iterator) else rows  # they are read more than once
        digest = hashlib.sha256()
        self.num_rows = 0
        for row in self._rows:
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
