"""Reuses pairs from an earlier run with the same model and settings."""

from __future__ import annotations

import numpy as np

from entangle_cli.diagnose.scan.row_records import PreparedRow, with_references, with_row_fields
from entangle_cli.errors import UsageError
from entangle_cli.records.columns import plain_value
from entangle_cli.records.pair import PairRecord, Status
from entangle_cli.records.run import OTHER_ROWS, Identity, Run


class KnownPairs:
    """The measured pairs of a run by id.

    Args:
        run: the earlier run.
        identity: identity of the scan that reuses the pairs.
    Raises:
        UsageError: the run has a different model or settings, or lacks data that these settings require.
    """

    def __init__(self, run: Run, identity: Identity) -> None:
        different = run.identity.difference_words(identity, ignoring=OTHER_ROWS)
        if different:
            raise UsageError(
                f"--known {run.place}: measured with a different {', '.join(different)}",
                "a run with the same model and settings, on any data",
                "use another run, or remove --known",
            )
        if identity.settings.get("layers"):
            raise UsageError(
                "--known with --layers", "one of the two; layer products cannot be reused", "remove one of the two"
            )
        self._has_reference_model = identity.has_reference_model
        self._columns = run.columns
        measured = np.flatnonzero(run.columns["status"] == Status.OK.value)
        self._positions = {run.columns["pair_id"][position]: int(position) for position in measured}

    def record(self, row: PreparedRow) -> PairRecord | None:
        """The earlier record of a row's pair, with the row's own location and scores; None for an unknown pair."""
        position = self._positions.get(row.pair.pair_id)
        if position is None:
            return None
        stored = {name: plain_value(name, self._columns[name][position]) for name in self._columns}
        record = with_row_fields(PairRecord(**stored), row)
        return record if self._has_reference_model else with_references(record, row)
