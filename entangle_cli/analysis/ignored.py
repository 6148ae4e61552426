"""Pairs that a gate ignores, each with a reason and an expiry date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entangle_cli.records.columns import Columns, taken


@dataclass(frozen=True, slots=True)
class Ignored:
    """The entries of an ignore file that apply today."""

    file: Path
    pairs: frozenset[str]
    """By `pair_id`."""
    expired: int
    """Number of expired entries. Their pairs are judged again."""

    @property
    def expired_words(self) -> str:
        """A note about expired entries; empty without any."""
        if not self.expired:
            return ""
        return "; 1 entry has expired" if self.expired == 1 else f"; {self.expired:,} entries have expired"

    def remove_from(self, columns: Columns) -> Mapping[str, Any]:
        """The rows without the ignored pairs."""
        return taken(columns, np.array([pair_id not in self.pairs for pair_id in columns["pair_id"]], dtype=bool))
