"""`entangle report`: a run, to be read by people or programs."""

from __future__ import annotations

import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from entangle_cli.cli.options import Beta, Debug, Gamma, LossOptions, OtherLoss, RunFolder, loss_settings
from entangle_cli.errors import UsageError

if TYPE_CHECKING:
    from entangle_cli.cli.judged import JudgedRun


class ReportFormat(str, Enum):
    """Outputs of `entangle report`."""

    TERMINAL = "terminal"
    HTML = "html"
    MARKDOWN = "markdown"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def report(
    run: RunFolder = None,
    output_format: Annotated[ReportFormat, typer.Option("--format", help="What to write to stdout.")] = (
        ReportFormat.TERMINAL
    ),
    loss: OtherLoss = None,
    beta: Beta = None,
    gamma: Gamma = None,
    loss_option: LossOptions = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", metavar="'METRIC OP VALUE'", help="Show what the gate would say; html and markdown."),
    ] = None,
    losses: Annotated[
        bool, typer.Option("--losses", help="Compare all losses, and what would let more pairs separate.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show a run: a summary (terminal, html, markdown) or every pair (json, jsonl, csv). Needs no model, no torch."""
    from entangle_cli.cli.judged import parse_rules, read_judged, refuse_relative
    from entangle_cli.report import rows
    from entangle_cli.report.terminal import console_for

    rules = parse_rules(fail_if)
    refuse_relative(rules)
    judged = read_judged(run, lambda own: loss_settings(own, loss, beta, gamma, loss_option), with_layers=True)
    if losses:
        _show_losses(judged, output_format)
        return
    match output_format:
        case ReportFormat.TERMINAL:
            console_for(sys.stdout).print(judged.report())
        case ReportFormat.HTML:
            judged.write_page(sys.stdout, rules)
        case ReportFormat.MARKDOWN:
            judged.write_markdown(sys.stdout, rules)
        case ReportFormat.JSON:
            rows.write_document(sys.stdout, judged.run, judged.columns, judged.summary)
        case ReportFormat.JSONL:
            rows.write_json_lines(sys.stdout, judged.columns)
        case ReportFormat.CSV:
            rows.write_csv(sys.stdout, judged.columns)


def _show_losses(judged: JudgedRun, output_format: ReportFormat) -> None:
    """The table over all losses."""
    from entangle_cli.diagnose.views.movements import losses_compared
    from entangle_cli.report import losses
    from entangle_cli.report.terminal import console_for

    comparison = losses_compared(judged.columns, judged.loss, judged.dtype)
    match output_format:
        case ReportFormat.TERMINAL:
            console_for(sys.stdout).print(losses.losses_report(comparison))
        case ReportFormat.JSON:
            losses.write_json(sys.stdout, comparison)
        case _:
            raise UsageError(f"--losses with --format {output_format.value}", "terminal or json", "give --format json")
