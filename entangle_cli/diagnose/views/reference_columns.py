"""Writes a run's data with reference log-probs, under the column names of TRL's DPOTrainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from entangle_cli.data.sources import open_source
from entangle_cli.data.subset import Subset, check_target, write_subset
from entangle_cli.data.trl_rows import REF_COLUMNS
from entangle_cli.diagnose.views.run_data import data_of_run, places_of, refuse_several_pairs, rows_of_data
from entangle_cli.errors import NothingToJudgeError, UsageError
from entangle_cli.records.run import Run
from entangle_cli.records.settings import ReadingSettings

OPTION = "--write-reference"
STANDARD_INPUT = "-"


def check_reference_target(data: str, reading: ReadingSettings, limit: int | None, target: Path) -> None:
    """Refuse an unusable target before the scan.

    Raises:
        UsageError: the target exists, its folder does not, it has another format than the data, or the settings form
            several pairs per row.
        DataError: the data cannot be read.
    """
    if data == STANDARD_INPUT:
        raise UsageError(
            f"{OPTION} with data from standard input", "a file, folder or hub name", "save the data to a file first"
        )
    if reading.ranked != "best-worst":
        raise UsageError(
            f"{OPTION} with --ranked {reading.ranked}: several pairs per row",
            "one pair per row",
            "leave --ranked out",
        )
    check_target(open_source(data, reading, limit), target, OPTION)


def write_reference_columns(run: Run, data: str, target: Path) -> tuple[int, int]:
    """Write the rows that have a reference log-prob for both answers, in the format of the data.

    The reference is the run's reference model. Without one it is the scanned model itself, as in DPO.

    Returns:
        Number of rows written, and of rows left out.
    Raises:
        UsageError: the run is of other data, has several pairs per row, or took its reference from the data; or the
            target cannot be written.
        NothingToJudgeError: no row has both log-probs.
        UnfinishedError: the rows cannot be written.
    """
    source, start = data_of_run(run, data)
    check_target(source, target, OPTION)
    columns = rows_of_data(run.columns, start, source.indices)
    refuse_several_pairs(run, columns)
    chosen, rejected = _reference(run, columns)
    is_known = np.isfinite(chosen) & np.isfinite(rejected)
    if not is_known.any():
        raise NothingToJudgeError(
            f"{run.place}: no row has reference log-probs",
            "at least one measured pair",
            "run entangle report to see why the rows were skipped",
        )
    place_of_row = places_of(columns["index"])

    def keeps(row: int) -> bool:
        place = place_of_row(row)
        return place is not None and bool(is_known[place])

    def values(numbers: Any) -> Any:
        return lambda row: float(numbers[place_of_row(row)])

    names = REF_COLUMNS[0]
    added = dict(zip(names, (values(chosen), values(rejected)), strict=True))
    write_subset(source, target, Subset(keeps, added, dict.fromkeys(names, float)), OPTION)
    num_written = int(np.count_nonzero(is_known))
    return num_written, source.num_rows - num_written


def _reference(run: Run, columns: Mapping[str, Any]) -> tuple[Any, Any]:
    """Reference log-probs of chosen and rejected, nats [rows]; NaN where unknown."""
    if run.identity.has_reference_model:
        return columns["chosen_ref_log_prob"], columns["rejected_ref_log_prob"]
    if np.isfinite(columns["chosen_ref_log_prob"]).any():
        raise UsageError(
            f"{OPTION}: {run.identity.data_name} already has reference log-probs",
            "data without them, or --ref-model",
            "add --ref-model with the checkpoint that training starts from, or use the data as they are",
        )
    return columns["chosen_log_prob"], columns["rejected_log_prob"]
