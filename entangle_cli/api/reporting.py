"""Reports of a run in every format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

from entangle_cli.api.run import NUM_WORST, Run
from entangle_cli.errors import UsageError
from entangle_cli.records.columns import rows_of, taken
from entangle_cli.records.pair import Status
from entangle_cli.records.settings import ReportFormat

if TYPE_CHECKING:
    from entangle_cli.analysis.gate import Verdict

NUM_SKIPPED = 5
PAGE_PAIRS, PAGE_SKIPPED = 25, 100
"""Worst pairs and skipped rows that a page lists."""


def write_report(run: Run, stream: IO[str], output_format: str, rules: Sequence[str] = (), *, verbose: bool) -> None:
    """Write a report; see `Run.write_report`.

    Raises:
        UsageError: the format is unknown, or a rule is invalid.
    """
    from entangle_cli.report import rows
    from entangle_cli.report.consoles import show
    from entangle_cli.report.markdown import write_report_markdown

    match output_format:
        case "terminal":
            show(stream, rendered(run, verbose=verbose))
        case "html":
            _write_page(run, stream, rules)
        case "markdown":
            write_report_markdown(stream, run.overview, _verdict_of(run, rules))
        case "json":
            rows.write_document(stream, run, run.all_columns, run.summary)
        case "jsonl":
            rows.write_json_lines(stream, run.all_columns)
        case "csv":
            rows.write_csv(stream, run.all_columns)
        case _:
            raise UsageError(
                f"report format {output_format!r}", f"one of {', '.join(ReportFormat)}", "choose one of these"
            )


def rendered(run: Run, *, verbose: bool) -> Any:
    """The terminal report, as rich renders it; see `Run.rendered`."""
    from entangle_cli.report.summary import Summary

    summary = Summary(run.overview, shows_everything=verbose)
    if not verbose:
        return summary
    from entangle_cli.diagnose.views.overview import is_random_sample
    from entangle_cli.report.details import details_report

    worst, skipped = run.worst_rows(NUM_WORST), _skipped(run, NUM_SKIPPED)
    return details_report(summary, run, run.summary, worst, skipped, run.loss_words, is_sample=is_random_sample(run))


def _write_page(run: Run, stream: IO[str], rules: Sequence[str]) -> None:
    from entangle_cli.diagnose.views.page_data import page_data
    from entangle_cli.report.html import write_report_page

    comparison, layers = run.losses(), run.summary["layers"]
    write_report_page(
        stream,
        run,
        run.overview_of(PAGE_PAIRS),
        run.summary,
        _skipped(run, PAGE_SKIPPED),
        comparison,
        page_data(run.all_columns, run.loss, run.identity.dtype, comparison, layers),
        _verdict_of(run, rules),
    )


def _verdict_of(run: Run, rules: Sequence[str]) -> Verdict | None:
    from entangle_cli.analysis.gate import judge
    from entangle_cli.analysis.rules import parse_rule

    return judge([parse_rule(text) for text in rules], run.all_columns) if rules else None


def _skipped(run: Run, count: int) -> list[dict[str, Any]]:
    import numpy as np

    positions = np.flatnonzero(run.all_columns["status"] != Status.OK.value)[:count]
    return list(rows_of(taken(run.all_columns, positions)))
