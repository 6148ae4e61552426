"""`entangle gate`: the verdict on a run, for CI."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping
from datetime import date
from enum import Enum
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from entangle_cli import __version__
from entangle_cli.cli.config import origins_of
from entangle_cli.cli.ignore_file import read_ignore_file
from entangle_cli.cli.json_file import refuse_unwritable, write_file
from entangle_cli.cli.options import Beta, Debug, FailIf, Gamma, LossOptions, OtherLoss, RunFolder, loss_settings
from entangle_cli.cli.tell import tell
from entangle_cli.errors import NothingToJudgeError, UsageError

if TYPE_CHECKING:
    from entangle_cli.analysis.gate import Verdict
    from entangle_cli.cli.judged import JudgedRun


class GateFormat(str, Enum):
    """Outputs of `entangle gate`."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"
    GITHUB = "github"
    JUNIT = "junit"
    SARIF = "sarif"


def gate(
    context: typer.Context,
    run: RunFolder = None,
    fail_if: FailIf = None,
    baseline: Annotated[
        Path | None, typer.Option(help="A run that rules ending in _increase, and --only-new, are over.")
    ] = None,
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Judge only pairs that the baseline does not have.")
    ] = False,
    ignore_file: Annotated[
        Path | None, typer.Option(help="TOML file of pairs to leave out, each with a reason and the day it expires.")
    ] = None,
    min_pairs: Annotated[int, typer.Option(min=1, help="Measured pairs needed to judge; else exit 5.")] = 1,
    max_skipped: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest share of rows not measured to judge; else exit 5.")
    ] = 1.0,
    output_format: Annotated[GateFormat, typer.Option("--format", help="What to write to stdout.")] = GateFormat.TEXT,
    write: Annotated[
        list[str] | None,
        typer.Option("--write", metavar="FORMAT=FILE", help="Also write the verdict so; may be given repeatedly."),
    ] = None,
    loss: OtherLoss = None,
    beta: Beta = None,
    gamma: Gamma = None,
    loss_option: LossOptions = None,
    debug: Debug = False,
) -> None:
    """Judge a run by rules: exit 0 where all pass, 1 where one fails, 5 where there is nothing to judge."""
    from entangle_cli.analysis.gate import Limits, Reduction, judge
    from entangle_cli.analysis.rules import is_relative
    from entangle_cli.cli.judged import only_new as new_rows
    from entangle_cli.cli.judged import parse_rules, read_judged
    from entangle_cli.cli.verdict import CODES, keeping
    from entangle_cli.diagnose.views.same_measurement import refuse_baseline
    from entangle_cli.diagnose.views.whole_run import scope_of

    origins = origins_of(context)
    rules = parse_rules(fail_if, origins)
    files = [_format_and_file(text, ignore_file) for text in write or []]
    if not rules:
        raise UsageError(
            "gate without a rule", 'at least one --fail-if "METRIC OP VALUE"', 'add --fail-if "both_fall_rate > 0.1"'
        )
    if baseline is None and (only_new or any(map(is_relative, rules))):
        raise UsageError(
            "--only-new or a rule ending in _increase without --baseline",
            "a run to compare with",
            "give --baseline RUN",
        )
    is_loss_named = any(value is not None for value in (loss, beta, gamma, loss_option))
    ignored = None if ignore_file is None else read_ignore_file(ignore_file, date.today())
    judged = read_judged(run, lambda own: loss_settings(own, loss, beta, gamma, loss_option))
    _refuse_partial(judged)
    before = None
    columns = judged.columns
    left_out = []
    if baseline is not None:
        other = read_judged(baseline, lambda own: judged.loss if is_loss_named else own)
        _refuse_partial(other)
        refuse_baseline(judged.run, other.run, same_loss=is_loss_named)
        before = other.columns
    if before is not None and only_new:
        num_rows, columns = len(columns["index"]), new_rows(columns, before)
        words = f"left out {num_rows - len(columns['index']):,} pairs that {baseline} measured"
        left_out.append(Reduction("only-new", words, origins.taken.get("only-new")))
    if ignored is not None:
        num_rows, columns = len(columns["index"]), ignored.left(columns)
        words = f"{ignore_file} left out {num_rows - len(columns['index']):,} pairs{ignored.expired_words}"
        left_out.append(Reduction("ignore-file", words, origins.taken.get("ignore-file")))
    scope = scope_of(judged.run, tuple(left_out), origins.taken)
    verdict = judge(rules, columns, before, Limits(min_pairs, max_skipped), scope)
    about = _about(judged, columns)
    code = CODES[verdict.outcome]
    with keeping(code):
        _write(sys.stdout, output_format, verdict, about)
        sys.stdout.flush()
        for kind, file in files:
            write_file(file, partial(_write, kind=kind, verdict=verdict, about=about), "--write")
        _add_to_step_summary(partial(_write, kind=GateFormat.MARKDOWN, verdict=verdict, about=about))
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


def _refuse_partial(judged: JudgedRun) -> None:
    if judged.run.manifest["identity"]["settings"].get("until_decided"):
        raise NothingToJudgeError(
            f"{judged.run.folder} was measured until its own rules were decided",
            "a run whose size does not depend on what was seen",
            "take that scan's verdict, or scan without --until-decided",
        )
    if judged.run.status != "complete":
        raise NothingToJudgeError(
            f"{judged.run.folder} is not complete: {judged.summary['rows']:,} rows were measured before it ended",
            "a complete run; a part is no sample of the whole",
            "give the scan command again, it goes on from there",
        )


def _format_and_file(text: str, *inputs: Path | None) -> tuple[GateFormat, Path]:
    kind, _, file = text.partition("=")
    if kind not in list(GateFormat) or not file:
        raise UsageError(
            f"--write {text!r}", f"FORMAT=FILE with a format of {', '.join(GateFormat)}", "write it like junit=gate.xml"
        )
    refuse_unwritable(Path(file), *inputs, option="--write")
    return GateFormat(kind), Path(file)


def _about(judged: JudgedRun, columns: Mapping[str, Any]) -> dict[str, Any]:
    from entangle_cli.cli.judged import worst_rows
    from entangle_cli.diagnose.views.movements import describe_loss

    return {
        "run": str(judged.run.folder),
        "loss": describe_loss(judged.loss),
        "data_file": judged.run.manifest.get("plan", {}).get("data"),
        "worst": worst_rows(columns, 10),
    }


def _write(stream: IO[str], kind: GateFormat, verdict: Verdict, about: Mapping[str, Any]) -> None:
    from entangle_cli.report import gate as report
    from entangle_cli.report.sarif import write_sarif
    from entangle_cli.report.terminal import console_for, verdict_lines

    match kind:
        case GateFormat.TEXT:
            console_for(stream).print(verdict_lines(verdict))
        case GateFormat.JSON:
            report.write_json(stream, verdict, about)
        case GateFormat.MARKDOWN:
            report.write_markdown(stream, verdict, about)
        case GateFormat.GITHUB:
            report.write_github(stream, verdict, about)
        case GateFormat.JUNIT:
            report.write_junit(stream, verdict, about)
        case GateFormat.SARIF:
            write_sarif(stream, verdict, about, __version__)
