"""A data set filtered by what a run measured of it: kept rows written out, and what that changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from entangle_cli.analysis.selection import Extreme, Selection, parse_condition, parse_extreme, selected
from entangle_cli.analysis.statistics import share
from entangle_cli.data.subset import Subset, check_target, write_subset
from entangle_cli.diagnose.views.run_data import data_of_run, places_of, refuse_several_pairs, rows_of_data
from entangle_cli.errors import UsageError
from entangle_cli.records.pair import PAIR_FIELDS, Kind, Movement, Status
from entangle_cli.records.run import Run
from entangle_cli.records.settings import FilterRules

ANNOTATED = (
    *("status", "reason", "movement", "cosine", "norm_ratio", "slack"),
    *("chosen_delta", "rejected_delta", "uncertain"),
)
TYPE_OF_KIND: Mapping[Kind, type] = {Kind.TEXT: str, Kind.NUMBER: float, Kind.FLAG: bool, Kind.COUNT: int}
ANNOTATIONS = {name: TYPE_OF_KIND[PAIR_FIELDS[name].kind] for name in ANNOTATED}
"""Fields that `--annotate` adds to a row, under their names behind `entangle_`."""


def parse_selection(rules: FilterRules) -> Selection:
    """The selection that rules state.

    Raises:
        UsageError: a rule that cannot be, or both ends at once.
    """
    if rules.keep_unmeasured and rules.drop_unmeasured:
        raise UsageError("--keep-unmeasured and --drop-unmeasured", "one of the two", "leave one of them out")
    if rules.keep_lowest is not None and rules.keep_highest is not None:
        raise UsageError("--keep-lowest and --keep-highest", "one of the two", "leave one of them out")
    extreme: Extreme | None = None
    if (lowest := rules.keep_lowest) is not None or (lowest := rules.keep_highest) is not None:
        extreme = parse_extreme(rules.by, lowest, lowest=rules.keep_lowest is not None)
    return Selection(
        drop=tuple(map(parse_condition, rules.drop)),
        keep=tuple(map(parse_condition, rules.keep)),
        extreme=extreme,
        drop_uncertain=rules.drop_uncertain,
        drop_unmeasured=rules.drop_unmeasured,
    )


def filter_data(
    run: Run,
    columns: Mapping[str, Any],
    data: str,
    target: Path,
    selection: Selection,
    *,
    dropped: bool,
    annotate: bool,
    keep_unmeasured: bool = False,
) -> dict[str, Any]:
    """Write the kept (or the dropped) rows of a data set.

    Args:
        columns: the run's, seen under a loss.
        dropped: write the rows that the selection leaves out instead.
        annotate: add what was measured to each row.
        keep_unmeasured: rows that the run does not have are kept where the rules only drop.
    Returns:
        What was kept and the shares before and after, JSON-able.
    Raises:
        UsageError: the run is of other data or has several pairs a row, or the target cannot be.
        UnfinishedError: the rows cannot be written.
    """
    source, start = data_of_run(run, data)
    check_target(source, target)
    columns = rows_of_data(columns, start, source.indices)
    refuse_several_pairs(run, columns)
    not_in_run = source.num_rows - len(columns["index"])
    if not_in_run and not (selection.keeps_only_measured or keep_unmeasured or selection == Selection()):
        raise UsageError(
            f"{run.place} measured {len(columns['index']):,} of {source.num_rows:,} rows",
            "a run of every row, or a word on the others",
            "give --keep-unmeasured or --drop-unmeasured, or scan without --limit, --sample and --shard",
        )
    kept = selected(selection, columns)
    place_of_row = places_of(columns["index"])

    def is_kept(row: int) -> bool:
        place = place_of_row(row)
        # What the run did not see is like what it could not measure.
        return not selection.keeps_only_measured if place is None else bool(kept[place])

    keeps: Callable[[int], bool] = (lambda row: not is_kept(row)) if dropped else is_kept
    write_subset(source, target, _annotated(keeps, columns, place_of_row) if annotate else Subset(keeps))
    num_kept = sum(map(is_kept, source.indices))
    return {
        "data": source.name,
        "output": str(target),
        "written": "dropped" if dropped else "kept",
        "rows": source.num_rows,
        "kept": num_kept,
        "dropped": source.num_rows - num_kept,
        "not_in_run": not_in_run,
        "before": _shares(columns, np.ones(len(kept), dtype=bool)),
        "after": _shares(columns, kept),
    }


def _annotated(
    keeps: Callable[[int], bool], columns: Mapping[str, Any], place_of_row: Callable[[int], int | None]
) -> Subset:
    def value_of(name: str, kind: type) -> Callable[[int], Any]:
        column = columns[name]

        def value(row: int) -> Any:
            place = place_of_row(row)
            found = None if place is None else column[place]
            if found is None or kind is str:
                return found
            return kind(found) if isfinite(found) else None

        return value

    names = {f"entangle_{name}": (name, kind) for name, kind in ANNOTATIONS.items()}
    return Subset(
        keeps,
        {column: value_of(name, kind) for column, (name, kind) in names.items()},
        {column: kind for column, (_, kind) in names.items()},
    )


def _shares(columns: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """The movements of the measured pairs among some rows of the run."""
    measured = rows & (columns["status"] == Status.OK.value)
    movement = columns["movement"][measured]
    pairs = int(np.count_nonzero(measured))
    cosine = columns["cosine"][measured]
    return {
        "pairs": pairs,
        "movements": {kind.value: share(int(np.count_nonzero(movement == kind.value)), pairs) for kind in Movement},
        "mean_cosine": float(np.mean(cosine)) if pairs else None,
    }
