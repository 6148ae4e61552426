"""`entangle compare`: runs side by side, matched pair by pair."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box

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
    from entangle_cli.report.comparison import comparison_report
    from entangle_cli.report.consoles import show
    from entangle_cli.report.html import write_comparison_page
    from entangle_cli.report.markdown import print_markdown
    from entangle_cli.report.rows import write_json

    if trainer_log is not None:
        if len(runs) > 1:
            raise UsageError(
                f"--trainer-log with {len(runs)} runs",
                "one run, the scan of the training's start",
                "name that run alone",
            )
        _write_trained(compare_with_training(chosen_run(runs[0], loss), trainer_log), output_format)
        return
    if len(runs) < 2:
        raise UsageError(f"one run, {runs[0]}", "two runs or more", "name the run to compare it with")
    document = api.compare(*(chosen_run(run, loss) for run in runs))
    match output_format:
        case DocumentFormat.TERMINAL:
            show(sys.stdout, comparison_report(document, box.SIMPLE_HEAD))
        case DocumentFormat.MARKDOWN:
            print_markdown(sys.stdout, "entangle: runs compared", comparison_report, document)
        case DocumentFormat.HTML:
            write_comparison_page(sys.stdout, document)
        case DocumentFormat.JSON:
            write_json(sys.stdout, document)


def _write_trained(document: dict[str, Any], output_format: DocumentFormat) -> None:
    from entangle_cli.report.consoles import show
    from entangle_cli.report.markdown import print_markdown
    from entangle_cli.report.rows import write_json
    from entangle_cli.report.trained import trained_report
    from entangle_cli.report.trained_page import write_trained_page

    match output_format:
        case DocumentFormat.TERMINAL:
            show(sys.stdout, trained_report(document, box.SIMPLE_HEAD))
        case DocumentFormat.MARKDOWN:
            print_markdown(sys.stdout, "entangle: a training beside its scan", trained_report, document)
        case DocumentFormat.HTML:
            write_trained_page(sys.stdout, document)
        case DocumentFormat.JSON:
            write_json(sys.stdout, document)
