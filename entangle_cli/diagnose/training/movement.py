"""What happened to the probe pairs since the start of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from entangle_cli.analysis.observed_movement import observed_metrics
from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import PairRecord, RowKey, Status, row_key

LogProbs = Mapping[RowKey, tuple[float, float]]
"""Log-probs of chosen and rejected by pair, nats."""

UNKNOWN = (float("nan"), float("nan"))


def log_probs_by_pair(records: Sequence[PairRecord]) -> dict[RowKey, tuple[float, float]]:
    """The log-probs of the measured pairs."""
    return {
        row_key(record): (record.chosen_log_prob, record.rejected_log_prob)
        for record in records
        if record.chosen_log_prob is not None and record.rejected_log_prob is not None
    }


def with_references(records: Sequence[PairRecord], references: LogProbs) -> list[PairRecord]:
    """The records with reference log-probs. Those from the data set take precedence."""
    return [
        record
        if record.chosen_ref_log_prob is not None or row_key(record) not in references
        else replace(
            record,
            chosen_ref_log_prob=references[row_key(record)][0],
            rejected_ref_log_prob=references[row_key(record)][1],
        )
        for record in records
    ]


def set_metrics(records: Sequence[PairRecord], start: LogProbs, set_name: str) -> dict[str, float]:
    """`observed_metrics` of a probe set; empty without measured pairs."""
    measured = [record for record in records if record.file == set_name and record.status == Status.OK.value]
    return observed_metrics(measured, _start_of(measured, start))


def metrics_by_set(records: Sequence[PairRecord], start: LogProbs, set_names: Sequence[str]) -> dict[str, float]:
    """The metrics of several probe sets as `set/metric`."""
    return {
        f"{name.replace('-', '_')}/{metric}": value
        for name in set_names
        for metric, value in set_metrics(records, start, name).items()
    }


def _start_of(records: Sequence[PairRecord], start: LogProbs) -> Floats:
    return np.array([start.get(row_key(record), UNKNOWN) for record in records], dtype=float).reshape(-1, 2).T
