"""`entangle filter`: the rows of a data set that a run's numbers speak for, in the data's own format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from entangle_cli.cli.json_file import refuse_unwritable, write_file
from entangle_cli.cli.option_groups import OtherLossChoice
from entangle_cli.cli.options import Debug
from entangle_cli.errors import NothingToJudgeError, UsageError
from entangle_cli.records.settings import FilterRules


def filter_rows(
    *,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="The data that the run was scanned from.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New file to write, or new folder if the data are a folder.")
    ],
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'FIELD OP VALUE'", help="Drop pairs for which this is true, such as 'movement == both_fall'."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="'FIELD OP VALUE'", help="Keep only measured pairs for which this is true."),
    ] = None,
    keep_lowest: Annotated[
        float | None, typer.Option(help="Keep this share of the measured pairs, lowest --by.")
    ] = None,
    keep_highest: Annotated[
        float | None, typer.Option(help="Keep this share of the measured pairs, highest --by.")
    ] = None,
    by: Annotated[str, typer.Option(help="Field that orders the pairs.")] = "cosine",
    drop_uncertain: Annotated[
        bool, typer.Option("--drop-uncertain", help="Drop pairs whose movement is within the numerical error.")
    ] = False,
    drop_unmeasured: Annotated[
        bool, typer.Option("--drop-unmeasured", help="Drop rows that were skipped or are not in the run.")
    ] = False,
    keep_unmeasured: Annotated[
        bool,
        typer.Option("--keep-unmeasured", help="Keep rows that are not in the run, for example after scan --limit."),
    ] = False,
    write_dropped: Annotated[
        bool, typer.Option("--write-dropped", help="Write the dropped rows instead of the kept ones.")
    ] = False,
    annotate: Annotated[
        bool, typer.Option("--annotate", help="Add movement, cosine, slack and more to every row.")
    ] = False,
    loss: OtherLossChoice,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the outcome to this file.")] = None,
    debug: Debug = False,
) -> None:
    """Write the rows of a data set that a run's numbers keep or drop."""
    from entangle_cli import api
    from entangle_cli.cli.chosen_run import chosen_run
    from entangle_cli.report.consoles import show
    from entangle_cli.report.filtering import filter_report
    from entangle_cli.report.rows import write_json

    rules = FilterRules(
        drop=tuple(drop or ()),
        keep=tuple(keep or ()),
        keep_lowest=keep_lowest,
        keep_highest=keep_highest,
        by=by,
        drop_uncertain=drop_uncertain,
        drop_unmeasured=drop_unmeasured,
        keep_unmeasured=keep_unmeasured,
    )
    api.check_filter_rules(rules)
    if rules == FilterRules(by=by, keep_unmeasured=keep_unmeasured) and not annotate:
        raise UsageError(
            "no rule to filter by",
            "--drop, --keep, --keep-lowest, --keep-highest, --drop-uncertain or --drop-unmeasured, or --annotate",
            "write for example --drop 'movement == both_fall'",
        )
    refuse_unwritable(json_file, Path(data))
    if json_file is not None and json_file.resolve() == output.resolve():
        raise UsageError(f"--json {json_file} and -o {output}", "two files", "name another one")
    seen = chosen_run(run, loss)
    result = api.filter_rows(seen, data, output, rules, write_dropped=write_dropped, annotate=annotate)
    show(sys.stdout, filter_report(result, seen.loss_words))
    if json_file is not None:
        write_file(json_file, lambda stream: write_json(stream, {**result, "loss": seen.loss_words}))
    if not result["kept"]:
        raise NothingToJudgeError(f"{data}: no row is left", "at least one", "loosen the rules")
