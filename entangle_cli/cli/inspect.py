"""`entangle inspect`: how a data set is read, before anything is computed with it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from entangle_cli.cli.from_file import FromFile
from entangle_cli.cli.json_file import refuse_unwritable, write_file
from entangle_cli.cli.option_groups import PairOptions
from entangle_cli.cli.options import (
    Data,
    Debug,
    Limit,
)
from entangle_cli.errors import NothingToJudgeError


def inspect(
    data: Data,
    pairs: PairOptions,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Checkpoint whose tokenizer marks the scored tokens; default: text only."),
    ] = None,
    limit: Limit = None,
    from_file: FromFile = None,
    max_skipped: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest share of unusable rows; above it exit 5.")
    ] = 1.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")] = None,
    debug: Debug = False,
) -> None:
    """Show how a data set is read: format, counts, lengths, warnings, three pairs."""
    from entangle_cli import api
    from entangle_cli.report.consoles import show
    from entangle_cli.report.inspection import inspection_report
    from entangle_cli.report.rows import write_json

    refuse_unwritable(json_file, *pairs.inputs(model, *data))
    document = api.inspect(
        data,
        model,
        pairs.reading(),
        pairs.loading(),
        limit=limit,
        max_length=pairs.length(),
        truncation=pairs.truncation.value,
    )
    show(sys.stdout, inspection_report(document))
    if json_file is not None:
        write_file(json_file, lambda stream: write_json(stream, document))
    if not document["usable"]:
        raise NothingToJudgeError(
            f"{', '.join(data)}: none of {document['data']['looked_at']:,} rows is a usable pair",
            "at least one preference pair",
            _next_step(document),
        )
    skipped = sum(document["reasons"].values())
    rows = skipped + document["usable"]
    if skipped / rows > max_skipped:
        raise NothingToJudgeError(
            f"{', '.join(data)}: {skipped:,} of {rows:,} rows are no usable pair",
            f"a share of at most {max_skipped!r} (--max-skipped)",
            "repair the rows named above, or remove them",
        )


def _next_step(document: Mapping[str, Any]) -> str:
    """What to do where no row is usable."""
    from entangle_cli.api.inspecting import suggested_map

    lacks_columns = any(str(row["detail"]).startswith("no column") for row in document["skipped"])
    return f"name the columns: {suggested_map(document['columns'])}" if lacks_columns else "see the reasons above"
