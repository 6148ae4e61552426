"""Pairs that another run measured already: with the same model and settings their numbers are the same."""

from __future__ import annotations

import hashlib

import numpy as np

from entangle_cli.diagnose.scan.row_records import PreparedRow, of_row, with_references
from entangle_cli.errors import UsageError
from entangle_cli.records.columns import plain_value
from entangle_cli.records.pair import PairRecord, Status
from entangle_cli.records.run import OTHER_ROWS, Identity, Run


class KnownPairs:
    """The measured pairs of a run, by their ids.

    Args:
        run: whose pairs they are.
        identity: of the scan that will take them.
    Raises:
        UsageError: the run has a different model or settings, or lacks data that these settings require.
    """

    def __init__(self, run: Run, identity: Identity) -> None:
        different = run.identity.difference_words(identity, ignoring=OTHER_ROWS)
        if different:
            raise UsageError(
                f"--known {run.place}: measured with a different {', '.join(different)}",
                "a run of the same model and settings, of any data",
                "name another run, or leave --known out",
            )
        if identity.settings.get("layers"):
            raise UsageError(
                "--known with --layers", "one of the two: a run's layers are not taken over", "leave one out"
            )
        self._has_reference_model = identity.has_reference_model
        self._columns = run.columns
        measured = np.flatnonzero(run.columns["status"] == Status.OK.value)
        self._places = {run.columns["pair_id"][place]: int(place) for place in measured}

    @property
    def identity(self) -> str:
        """A hash of the pairs' ids: equal in all processes that reuse the same pairs."""
        return hashlib.sha256(" ".join(sorted(self._places)).encode()).hexdigest()

    def record(self, row: PreparedRow) -> PairRecord | None:
        """The record of a row whose pair is known, in its own place; None where it is not."""
        place = self._places.get(row.pair.pair_id)
        if place is None:
            return None
        stored = {name: plain_value(name, self._columns[name][place]) for name in self._columns}
        found = of_row(PairRecord(**stored), row)
        return found if self._has_reference_model else with_references(found, row)
