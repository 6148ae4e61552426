"""`entangle gate`: the verdict on a run, for CI."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping
from datetime import date
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from entangle_cli import __version__
from entangle_cli.cli.config import origins_of
from entangle_cli.cli.ignore_file import read_ignore_file
from entangle_cli.cli.json_file import format_and_file, write_file
from entangle_cli.cli.option_groups import OtherLossChoice
from entangle_cli.cli.options import Debug, FailIf, RunFolder
from entangle_cli.cli.tell import tell
from entangle_cli.errors import UsageError

if TYPE_CHECKING:
    from entangle_cli.api import Run
    from entangle_cli.api.outcomes import Verdict


class GateFormat(StrEnum):
    """Outputs of `entangle gate`."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"
    GITHUB = "github"
    JUNIT = "junit"
    SARIF = "sarif"


def gate(
    *,
    context: typer.Context,
    run: RunFolder = None,
    fail_if: FailIf = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Run to compare with, for _increase rules and --only-new.")
    ] = None,
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Judge only pairs that the baseline did not measure.")
    ] = False,
    ignore_file: Annotated[
        Path | None, typer.Option(help="TOML file of pairs to leave out, each with a reason and an expiry date.")
    ] = None,
    min_pairs: Annotated[int, typer.Option(min=1, help="Minimum of measured pairs; below it exit 5.")] = 1,
    max_skipped: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest share of rows without a measurement; above it exit 5.")
    ] = 1.0,
    output_format: Annotated[GateFormat, typer.Option("--format", help="What to write to stdout.")] = GateFormat.TEXT,
    write: Annotated[
        list[str] | None,
        typer.Option("--write", metavar="FORMAT=FILE", help="Also write the verdict in this format. Repeatable."),
    ] = None,
    loss: OtherLossChoice,
    debug: Debug = False,
) -> None:
    """Judge a run by rules: exit 0 if all pass, 1 if one fails, 5 if there is nothing to judge."""
    from entangle_cli import api
    from entangle_cli.cli.chosen_run import chosen_run
    from entangle_cli.cli.verdict import CODES, keeping

    origins = origins_of(context)
    rules = api.parsed_rules(fail_if or (), origins.of("fail-if"))
    files = [format_and_file(text, GateFormat, "junit=gate.xml", ignore_file) for text in write or []]
    if not rules:
        raise UsageError(
            "gate without a rule", 'at least one --fail-if "METRIC OP VALUE"', 'add --fail-if "both_fall_rate > 0.1"'
        )
    if baseline is None:
        api.refuse_without_baseline(rules, only_new=only_new)
    ignored = None if ignore_file is None else read_ignore_file(ignore_file, date.today())
    judged = chosen_run(run, loss)
    before = None if baseline is None else api.read(baseline)
    if before is not None and loss.is_given:
        before = before.under(judged.loss)
    verdict = api.gate(
        judged,
        rules,
        baseline=before,
        only_new=only_new,
        ignored=ignored,
        min_pairs=min_pairs,
        max_skipped=max_skipped,
        origins=origins.taken,
    )
    write_verdict = partial(_write, verdict=verdict, about=_about(judged), words=judged.command_words)
    code = CODES[verdict.outcome]
    with keeping(code):
        write_verdict(sys.stdout, output_format)
        sys.stdout.flush()
        for kind, file in files:
            write_file(file, partial(write_verdict, kind=kind), "--write")
        _add_to_step_summary(partial(write_verdict, kind=GateFormat.MARKDOWN))
    raise typer.Exit(code)


def _add_to_step_summary(write: Callable[[IO[str]], None]) -> None:
    """Add the verdict to the step's summary on GitHub. A missing file changes no exit code."""
    if not (summary := os.environ.get("GITHUB_STEP_SUMMARY")):
        return
    try:
        if Path(summary).exists() and not Path(summary).is_file():
            raise OSError(errno.EINVAL, "not a regular file")
        with Path(summary).open("a", encoding="utf-8") as stream:
            write(stream)
    except OSError as error:
        tell(f"GITHUB_STEP_SUMMARY {summary}: {error.strerror}; nothing is added to the step's summary")


def _about(run: Run) -> dict[str, Any]:
    return {
        "run": run.place,
        "loss": run.loss_words,
        "data_file": run.manifest.get("plan", {}).get("data"),
    }


def _write(stream: IO[str], kind: GateFormat, verdict: Verdict, about: Mapping[str, Any], words: str) -> None:
    from entangle_cli.report import gate as report
    from entangle_cli.report.consoles import show
    from entangle_cli.report.rows import write_json
    from entangle_cli.report.sarif import write_sarif
    from entangle_cli.report.verdict import verdict_lines

    match kind:
        case GateFormat.TEXT:
            show(stream, verdict_lines(verdict, words))
        case GateFormat.JSON:
            write_json(stream, report.verdict_document(verdict, about))
        case GateFormat.MARKDOWN:
            report.write_markdown(stream, verdict, about)
        case GateFormat.GITHUB:
            report.write_github(stream, verdict, about)
        case GateFormat.JUNIT:
            report.write_junit(stream, verdict, about)
        case GateFormat.SARIF:
            write_sarif(stream, verdict, about, __version__)
