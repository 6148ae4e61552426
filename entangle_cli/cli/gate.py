"""`entangle gate`: the verdict on a run, for CI."""

from __future__ import annotations

import sys

import typer

from entangle_cli.cli.options import Beta, Debug, FailIf, Gamma, LossOptions, OtherLoss, RunFolder, loss_settings
from entangle_cli.errors import NothingToJudgeError, UsageError


def gate(
    run: RunFolder = None,
    fail_if: FailIf = None,
    loss: OtherLoss = None,
    beta: Beta = None,
    gamma: Gamma = None,
    loss_option: LossOptions = None,
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
    judged = read_judged(run, lambda own: loss_settings(own, loss, beta, gamma, loss_option))
    if judged.run.status != "complete":
        raise NothingToJudgeError(
            f"{judged.run.folder} is not complete: {judged.summary['rows']:,} rows were measured before it ended",
            "a complete run; a part is no sample of the whole",
            "give the scan command again, it goes on from there",
        )
    raise typer.Exit(show_gate(console_for(sys.stdout), judged, rules))
