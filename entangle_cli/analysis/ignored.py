"""Pairs that a gate leaves out, each for a reason and until a day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entangle_cli.records.columns import Columns, taken


@dataclass(frozen=True, slots=True)
class Ignored:
    """What an ignore file says today."""

    file: Path
    pairs: frozenset[str]
    """By `pair_id`."""
    expired: int
    """Entries whose day has passed; their pairs are judged again."""

    @property
    def expired_words(self) -> str:
        """What is said of entries that have expired; nothing without any."""
        return f"; {self.expired:,} entries have expired, their pairs are judged" if self.expired else ""

    def left(self, columns: Columns) -> Mapping[str, Any]:
        """The rows that are judged."""
        return taken(columns, np.array([pair_id not in self.pairs for pair_id in columns["pair_id"]], dtype=bool))
