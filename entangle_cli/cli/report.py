"""`entangle report`: a run, to be read by people or programs."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated

import typer

from entangle_cli.cli.options import Debug, RunFolder


class ReportFormat(str, Enum):
    """Outputs of `entangle report`."""

    TERMINAL = "terminal"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def report(
    run: RunFolder = None,
    output_format: Annotated[ReportFormat, typer.Option("--format", help="What to write to stdout.")] = (
        ReportFormat.TERMINAL
    ),
    loss: Annotated[
        str | None, typer.Option("--loss", help="See the run under this loss; default: the one it was scanned with.")
    ] = None,
    beta: Annotated[float | None, typer.Option("--beta", help="Inverse temperature of the loss.")] = None,
    debug: Debug = False,
) -> None:
    """Show a run: a summary for the terminal, or every pair as json, jsonl or csv. Needs no model and no torch."""
    from entangle_cli.cli.judged import read_judged
    from entangle_cli.report import rows
    from entangle_cli.report.terminal import console_for

    judged = read_judged(run, loss, beta)
    match output_format:
        case ReportFormat.TERMINAL:
            console_for(sys.stdout).print(judged.report())
        case ReportFormat.JSON:
            rows.write_document(sys.stdout, judged.run, judged.columns, judged.summary)
        case ReportFormat.JSONL:
            rows.write_json_lines(sys.stdout, judged.columns)
        case ReportFormat.CSV:
            rows.write_csv(sys.stdout, judged.columns)
