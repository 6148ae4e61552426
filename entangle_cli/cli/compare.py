"""`entangle compare`: runs side by side, matched pair by pair."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from entangle_cli.cli.option_groups import OtherLossChoice
from entangle_cli.cli.options import Debug, DocumentFormat
from entangle_cli.errors import UsageError


def compare(
    *,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Folders of two or more runs.")],
    output_format: Annotated[DocumentFormat, typer.Option("--format", help="What to write to stdout.")] = (
        DocumentFormat.TERMINAL
    ),
    trainer_log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="trainer_state.json of a finished training, to lay its curves beside one run: the scan of its start.",
        ),
    ] = None,
    loss: OtherLossChoice,
    debug: Debug = False,
) -> None:
    """Compare runs of the same pairs, or a run with the training that followed."""
    from entangle_cli import api
    from entangle_cli.api.comparing import compare_with_training
    from entangle_cli.cli.chosen_run import chosen_run
    from entangle_cli.cli.document import write_document
    from entangle_cli.report.comparison import comparison_report
    from entangle_cli.report.html import write_comparison_page
    from entangle_cli.report.trained import trained_report
    from entangle_cli.report.trained_page import write_trained_page

    seen = [chosen_run(run, loss) for run in runs]
    if trainer_log is not None:
        if len(runs) > 1:
            raise UsageError(
                f"--trainer-log with {len(runs)} runs",
                "one run, the scan of the training's start",
                "name that run alone",
            )
        document = compare_with_training(seen[0], trainer_log)
        title = "entangle: a training beside its scan"
        write_document(sys.stdout, output_format, document, title, trained_report, write_trained_page)
        return
    if len(runs) < 2:
        raise UsageError(f"one run, {runs[0]}", "two runs or more", "name the run to compare it with")
    title = "entangle: runs compared"
    write_document(sys.stdout, output_format, api.compare(*seen), title, comparison_report, write_comparison_page)
