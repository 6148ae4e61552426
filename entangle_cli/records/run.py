"""A run: what was measured, on what, and under which settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entangle_cli.records.columns import Columns
from entangle_cli.records.settings import LossSettings

SCHEMA = "entangle.run"
SCHEMA_VERSION = "1.0"

ROW_SETTINGS = frozenset(
    {"limit", "sample", "seed", "shard", "until_decided", "split", "config_name", "revision", "max_row_bytes"}
)
"""Settings that say which rows are measured, not how."""

OTHER_ROWS = ROW_SETTINGS | {"data"}
"""What two runs may differ in and still give the same pair the same numbers."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides the numbers of a run. Two runs with the same identity have the same numbers.

    Attributes:
        document: as it stands in the manifest, JSON-able.
    """

    document: Mapping[str, Any]

    @property
    def model(self) -> Mapping[str, Any]:
        """Name of the checkpoint, and its files' hashes or its commit."""
        found: Mapping[str, Any] = self.document["model"]
        return found

    @property
    def model_name(self) -> str:
        """As it was given."""
        return str(self.model["name"])

    @property
    def data(self) -> Mapping[str, Any]:
        """Name of the data set, its hash or commit, and its number of rows."""
        found: Mapping[str, Any] = self.document["data"]
        return found

    @property
    def data_name(self) -> str:
        """Of the data set, or of the first of several with their number."""
        return str(self.data["name"])

    @property
    def sources(self) -> Sequence[Mapping[str, Any]]:
        """The data sets one by one; empty where there is only one."""
        found: Sequence[Mapping[str, Any]] = self.data.get("sources", ())
        return found

    @property
    def num_rows(self) -> int | None:
        """Rows of the data set; None where nobody counted them, as in a stream."""
        found: int | None = self.data.get("rows")
        return found

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the scan that decide its numbers or its rows, by name."""
        found: Mapping[str, Any] = self.document["settings"]
        return found

    @property
    def dtype(self) -> str:
        """What the model was computed in."""
        return str(self.settings["dtype"])

    @property
    def is_until_decided(self) -> bool:
        """Whether the scan ended when the rules of a gate were settled."""
        return bool(self.settings.get("until_decided"))

    @property
    def has_reference_model(self) -> bool:
        """Whether reference log-probs are those of a reference model."""
        return "reference" in self.document

    def differences(self, other: Identity, ignoring: Collection[str] = ()) -> list[str]:
        """Names of what differs: settings by their names, and `model`, `data`, `tokenization`, `reference`.

        Args:
            ignoring: names that are not looked at.
        """
        groups = (self.document.keys() | other.document.keys()) - {"settings"}
        found = {name for name in groups if self.document.get(name) != other.document.get(name)}
        names = self.settings.keys() | other.settings.keys()
        found |= {name for name in names if self.settings.get(name) != other.settings.get(name)}
        return sorted(found - set(ignoring))

    def difference_words(self, other: Identity, ignoring: Collection[str] = ()) -> list[str]:
        """`differences` in words: settings with both values, such as `dtype (float32, now float64)`."""
        return [
            f"{name} ({self.settings.get(name)}, now {other.settings.get(name)})"
            if name in self.settings or name in other.settings
            else name
            for name in self.differences(other, ignoring)
        ]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know that is not an error; shown in every output."""

    code: str
    message: str
    count: int = 1
    """Rows it concerns."""


@dataclass(frozen=True, eq=False)
class Run:
    """Pairs that were measured, under a loss.

    Attributes:
        folder: where it is stored; None for one that is only in memory.
        manifest: what is known of the scan, JSON-able.
        columns: what was measured of the pairs, by column.
        loss: what movements are computed under.
    """

    folder: Path | None
    manifest: Mapping[str, Any]
    columns: Columns
    loss: LossSettings

    @property
    def identity(self) -> Identity:
        """What decides the numbers."""
        return Identity(self.manifest["identity"])

    @property
    def status(self) -> str:
        """`complete` or `partial`."""
        return str(self.manifest["status"])

    @property
    def place(self) -> str:
        """The folder in words, for messages."""
        return "a run in memory" if self.folder is None else str(self.folder)
