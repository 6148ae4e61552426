"""`entangle report`: a run, to be read by people or programs."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from entangle_cli.cli.json_file import format_and_file, write_file
from entangle_cli.cli.option_groups import OtherLossChoice
from entangle_cli.cli.options import Debug, RunFolder
from entangle_cli.cli.tell import tell
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import ReportFormat

if TYPE_CHECKING:
    from entangle_cli.api import Run


REPORT_EXAMPLE = "html=report.html"


def report(
    *,
    run: RunFolder = None,
    output_format: Annotated[ReportFormat, typer.Option("--format", help="What to write to stdout.")] = (
        ReportFormat.TERMINAL
    ),
    write: Annotated[
        list[str] | None,
        typer.Option("--write", metavar="FORMAT=FILE", help="Write the report to a file instead. Repeatable."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show the numbers behind the summary and every warning.")
    ] = False,
    loss: OtherLossChoice,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", metavar="'METRIC OP VALUE'", help="Add what the gate would say (html and markdown)."),
    ] = None,
    losses: Annotated[
        bool, typer.Option("--losses", help="Compare all losses and show what would let more pairs separate.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show a run: a summary (terminal, html, markdown) or every pair (json, jsonl, csv)."""
    from entangle_cli import api
    from entangle_cli.cli.chosen_run import chosen_run

    rules = api.parsed_rules(fail_if or ())
    api.refuse_without_baseline(rules)
    files = [format_and_file(text, ReportFormat, REPORT_EXAMPLE) for text in write or []]
    if output_format is ReportFormat.HTML and sys.stdout.isatty():
        raise UsageError("--format html on a terminal", "a file for the page", f"give --write {REPORT_EXAMPLE}")
    seen = chosen_run(run, loss)
    if losses:
        _show_losses(seen, output_format)
        return
    for kind, file in files:
        write_file(file, partial(seen.write_report, output_format=kind.value, rules=fail_if or ()), "--write")
        tell(f"{kind.value} written to {file}")
    if not files:
        seen.write_report(sys.stdout, output_format.value, fail_if or (), verbose=verbose)


def _show_losses(run: Run, output_format: ReportFormat) -> None:
    """The table over all losses."""
    from entangle_cli.report import losses
    from entangle_cli.report.consoles import show
    from entangle_cli.report.rows import write_json

    comparison = run.losses()
    match output_format:
        case ReportFormat.TERMINAL:
            show(sys.stdout, losses.losses_report(comparison))
        case ReportFormat.JSON:
            write_json(sys.stdout, losses.losses_document(comparison))
        case _:
            raise UsageError(f"--losses with --format {output_format.value}", "terminal or json", "give --format json")
