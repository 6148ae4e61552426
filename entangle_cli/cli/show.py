"""`entangle show`: one pair of a run, its reason and its text."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from entangle_cli.cli.option_groups import OtherLossChoice
from entangle_cli.cli.options import Debug, RunFolder
from entangle_cli.errors import UsageError


class ShowFormat(StrEnum):
    """Outputs of `entangle show`."""

    TERMINAL = "terminal"
    JSON = "json"


def show(
    *,
    run: RunFolder = None,
    row: Annotated[int | None, typer.Option(min=0, help="Row of the data, from 0, as a run's `index`.")] = None,
    line: Annotated[int | None, typer.Option(min=1, help="Line of the data file, from 1.")] = None,
    pair_in_row: Annotated[
        int | None, typer.Option(min=0, help="Which pair of a ranked row; default: the first.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Data that the run was scanned from, for a run without --include-text.")
    ] = None,
    output_format: Annotated[ShowFormat, typer.Option("--format", help="What to write to stdout.")] = (
        ShowFormat.TERMINAL
    ),
    loss: OtherLossChoice,
    debug: Debug = False,
) -> None:
    """Show one pair: numbers, reason, both answers."""
    from entangle_cli.cli.chosen_run import chosen_run
    from entangle_cli.report import consoles
    from entangle_cli.report.one_pair import pair_report
    from entangle_cli.report.rows import write_json

    if (row is None) == (line is None):
        raise UsageError(
            "show without a row" if row is None else f"--row {row} and --line {line}",
            "one of --row and --line",
            "write for example --line 12",
            topic="reports",
        )
    seen = chosen_run(run, loss)
    document = seen.pair_document(row=row, line=line, pair_in_row=pair_in_row, data=data)
    if output_format is ShowFormat.JSON:
        write_json(sys.stdout, {"schema": "entangle.pair", "schema_version": "1.0", **document})
        return
    consoles.show(sys.stdout, pair_report(document, seen.loss_words, seen.tokens_command(document["pair"]["index"])))
