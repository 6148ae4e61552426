"""A run: its measurements, inputs and settings."""

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
"""Settings that select the measured rows without changing how they are measured."""

OTHER_ROWS = ROW_SETTINGS | {"data"}
"""Settings in which two runs may differ and still give the same numbers for the same pair."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that determines a run's numbers. Two runs with the same identity have the same numbers.

    Attributes:
        document: the identity as stored in the manifest, JSON-able.
    """

    document: Mapping[str, Any]

    @property
    def model(self) -> Mapping[str, Any]:
        """Name of the checkpoint, and its file hashes or its commit."""
        model: Mapping[str, Any] = self.document["model"]
        return model

    @property
    def model_name(self) -> str:
        """The checkpoint's name, as the user gave it."""
        return str(self.model["name"])

    @property
    def data(self) -> Mapping[str, Any]:
        """Name of the data set, its hash or commit, and its number of rows."""
        data: Mapping[str, Any] = self.document["data"]
        return data

    @property
    def data_name(self) -> str:
        """Name of the data set. For several, name of the first and the number of the others."""
        return str(self.data["name"])

    @property
    def sources(self) -> Sequence[Mapping[str, Any]]:
        """The individual data sets; empty if there is only one."""
        sources: Sequence[Mapping[str, Any]] = self.data.get("sources", ())
        return sources

    @property
    def num_rows(self) -> int | None:
        """Number of rows in the data set; None if they were not counted, for example in a stream."""
        num_rows: int | None = self.data.get("rows")
        return num_rows

    @property
    def settings(self) -> Mapping[str, Any]:
        """Scan settings that determine its numbers or its rows, by name."""
        settings: Mapping[str, Any] = self.document["settings"]
        return settings

    @property
    def dtype(self) -> str:
        """The dtype of the computation."""
        return str(self.settings["dtype"])

    @property
    def is_until_decided(self) -> bool:
        """Whether the scan used --until-decided."""
        return bool(self.settings.get("until_decided"))

    @property
    def has_reference_model(self) -> bool:
        """Whether the reference log-probs come from a reference model."""
        return "reference" in self.document

    def differences(self, other: Identity, ignoring: Collection[str] = ()) -> list[str]:
        """Names of the differing entries: setting names, `model`, `data`, `tokenization`, `reference`.

        Args:
            ignoring: names to ignore.
        """
        groups = (self.document.keys() | other.document.keys()) - {"settings"}
        differing = {name for name in groups if self.document.get(name) != other.document.get(name)}
        names = self.settings.keys() | other.settings.keys()
        differing |= {name for name in names if self.settings.get(name) != other.settings.get(name)}
        return sorted(differing - set(ignoring))

    def difference_words(self, other: Identity, ignoring: Collection[str] = ()) -> list[str]:
        """`differences` in words. Settings show both values, such as `dtype (float32, now float64)`."""
        return [
            f"{name} ({self.settings.get(name)}, now {other.settings.get(name)})"
            if name in self.settings or name in other.settings
            else name
            for name in self.differences(other, ignoring)
        ]


@dataclass(frozen=True, slots=True)
class Notice:
    """A message that is not an error, shown in every output."""

    code: str
    message: str
    count: int = 1
    """Number of affected rows."""


@dataclass(frozen=True, eq=False)
class Run:
    """Measured pairs with a loss.

    Attributes:
        folder: the run's folder; None for a run in memory.
        manifest: metadata of the scan, JSON-able.
        columns: measurements of the pairs, by column.
        loss: the loss used to compute movements.
    """

    folder: Path | None
    manifest: Mapping[str, Any]
    columns: Columns
    loss: LossSettings

    @property
    def identity(self) -> Identity:
        """Everything that determines the run's numbers."""
        return Identity(self.manifest["identity"])

    @property
    def status(self) -> str:
        """`complete` or `partial`."""
        return str(self.manifest["status"])

    @property
    def place(self) -> str:
        """The folder, or a description for a run in memory; for messages."""
        return "a run in memory" if self.folder is None else str(self.folder)
