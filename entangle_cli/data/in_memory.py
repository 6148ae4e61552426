"""Models and data as Python objects of the caller, for example in a notebook."""

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
    """Wrap a (model, tokenizer) pair.

    Raises:
        UsageError: the argument is not a pair.
    """
    if isinstance(model, tuple) and len(model) == 2:
        return ModelInMemory(*model)
    raise UsageError(
        f"a {type(model).__name__} as the model",
        "a folder, a hub name, or a pair of a transformers model and its tokenizer",
        "call scan((model, tokenizer), data)",
    )


@contextmanager
def modes_kept(model: PreTrainedModel) -> Iterator[None]:
    """Restore every module's training or evaluation mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training


@dataclass(frozen=True, slots=True)
class ModelInMemory:
    """A loaded causal LM with its tokenizer. It is measured without moving or changing it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def name(self) -> str:
        """The name or path stored by transformers, or else the class name."""
        return str(getattr(self.model, "name_or_path", "") or type(self.model).__name__)


class RowsInMemory(RowSource):
    """Rows of a `datasets.Dataset` or a list."""

    kind = "rows in memory"

    def __init__(self, rows: Iterable[Any]) -> None:
        self.location = self.name = "rows in memory"
        self._rows = list(rows) if isinstance(rows, Iterator) else rows  # rows are read more than once
        digest = hashlib.sha256()
        self.num_rows = 0
        for row in self._rows:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode("utf-8", "backslashreplace") + b"\n")
            self.num_rows += 1
        self._sha256 = digest.hexdigest()
        if not self.num_rows:
            raise DataError("rows in memory: no rows", "at least one preference pair", "pass data that are not empty")

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, hash and number of the rows."""
        return {"name": self.name, "sha256": self._sha256, "rows": self.num_rows}

    def rows(self) -> Iterator[RawRow]:
        """All rows, in order."""
        return (RawRow(index, row) for index, row in enumerate(self._rows))


def is_rows(data: Any) -> bool:
    """Whether data are rows and not file names."""
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        return False
    if isinstance(data, list | tuple):
        return not data or not all(isinstance(each, str) or hasattr(each, "__fspath__") for each in data)
    return True
