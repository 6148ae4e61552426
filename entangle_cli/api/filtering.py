"""The rows of a data set that a run's numbers speak for."""

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
    """Write the rows of a data set that rules keep, in the data's own format.

    Args:
        run: of this data set, under the loss that decides.
        output: the file or folder to write.
        rules: what to keep or drop.
        write_dropped: write the dropped rows instead.
        annotate: add what was measured to every row.
    Returns:
        What was kept, and the shares of movements before and after, JSON-able.
    Raises:
        UsageError: a rule that cannot be, a run of other data, or an output that cannot be.
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
    """Refuse rules before anything is read.

    Raises:
        UsageError: one that cannot be.
    """
    from entangle_cli.diagnose.views.filtering import parse_selection

    parse_selection(rules)
