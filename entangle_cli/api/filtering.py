"""Filters the rows of a data set by the numbers of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from entangle_cli.api.run import Run
from entangle_cli.records.settings import FilterRules


def filter_rows(
    run: Run,
    data: str | Path,
    output: str | Path,
    rules: FilterRules,
    *,
    write_dropped: bool = False,
    annotate: bool = False,
) -> dict[str, Any]:
    """Write the rows of a data set that the rules keep, in the format of the data.

    Args:
        run: a run of this data set, under the loss that the rules use.
        output: the file or folder to write.
        rules: conditions to keep or drop rows.
        write_dropped: write the dropped rows instead.
        annotate: add the measured values to every row.
    Returns:
        Counts of kept rows, and the shares of movements before and after, JSON-able.
    Raises:
        UsageError: a rule is invalid, the run is of other data, or the output path cannot be used.
        UnfinishedError: the rows cannot be written.
    """
    from entangle_cli.diagnose.views.filtering import filter_data, parse_selection

    return filter_data(
        run,
        run.all_columns,
        str(data),
        Path(output),
        parse_selection(rules),
        dropped=write_dropped,
        annotate=annotate,
        keep_unmeasured=rules.keep_unmeasured,
    )


def check_filter_rules(rules: FilterRules) -> None:
    """Check rules before any data is read.

    Raises:
        UsageError: a rule is invalid.
    """
    from entangle_cli.diagnose.views.filtering import parse_selection

    parse_selection(rules)
