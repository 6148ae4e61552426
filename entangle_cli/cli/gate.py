"""`entangle gate`: the verdict on a run, for CI."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from entangle_cli.cli.options import Debug, FailIf, RunFolder
from entangle_cli.errors import UsageError


def gate(
    run: RunFolder = None,
    fail_if: FailIf = None,
    loss: Annotated[
        str | None, typer.Option("--loss", help="Judge under this loss; default: the one it was scanned with.")
    ] = None,
    beta: Annotated[float | None, typer.Option("--beta", help="Inverse temperature of the loss.")] = None,
    debug: Debug = False,
) -> None:
    """Judge a run by rules: exit 0 where all pass, 1 where one fails, 5 where there is nothing to judge."""
    from entangle_cli.cli.judged import parse_rules, read_judged, show_gate
    from entangle_cli.report.terminal import console_for

    rules = parse_rules(fail_if)
    if not rules:
        raise UsageError(
            "gate without a rule", 'at least one --fail-if "METRIC OP VALUE"', 'add --fail-if "both_fall_rate > 0.1"'
        )
    raise typer.Exit(show_gate(console_for(sys.stdout), read_judged(run, loss, beta), rules))
