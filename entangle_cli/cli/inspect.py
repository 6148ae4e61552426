"""`entangle inspect`: how a data set is read, before anything is computed with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from entangle_cli.cli.json_file import refuse_unwritable, write_file
from entangle_cli.cli.options import (
    BaseModel,
    ChatTemplate,
    ColumnMap,
    ConfigName,
    Data,
    DataFormat,
    DataRevision,
    Debug,
    Limit,
    MaxLength,
    ModelRevision,
    Ranked,
    Split,
    TrustRemoteCode,
    reading_settings,
)
from entangle_cli.errors import NothingToJudgeError
from entangle_cli.records import LoadingSettings


def inspect(
    data: Data,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Checkpoint whose tokenizer marks the scored tokens; default: text only."),
    ] = None,
    data_format: DataFormat = None,
    column_map: ColumnMap = None,
    ranked: Ranked = "best-worst",
    max_length: MaxLength = 1024,
    limit: Limit = None,
    split: Split = None,
    config_name: ConfigName = None,
    data_revision: DataRevision = None,
    model_revision: ModelRevision = None,
    base_model: BaseModel = None,
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    max_skipped: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest share of rows that may be no usable pair; else exit 5.")
    ] = 1.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
    debug: Debug = False,
) -> None:
    """Show how a data set is read: format, counts, lengths, traps, three pairs. Without --model no torch is loaded."""
    from entangle_cli.diagnose.inspection import inspect_rows
    from entangle_cli.report.inspection import inspection_report
    from entangle_cli.report.rows import write_json
    from entangle_cli.report.terminal import console_for

    refuse_unwritable(json_file, Path(data))
    reading = reading_settings(split, config_name, data_revision, data_format, column_map, ranked)
    if model is None:
        document = inspect_rows(data, reading, limit)
    else:
        from entangle_cli.diagnose.inspect_model import inspect_with_model

        loading = LoadingSettings(model_revision, base_model, chat_template, trust_remote_code)
        document = inspect_with_model(data, model, reading, loading, limit, max_length or None)
    console_for(sys.stdout).print(inspection_report(document))
    if json_file is not None:
        write_file(json_file, lambda stream: write_json(stream, document))
    if not document["usable"]:
        raise NothingToJudgeError(
            f"{data}: none of {document['data']['looked_at']:,} rows is a usable pair",
            "at least one preference pair",
            "see the reasons above",
        )
    skipped = sum(document["reasons"].values())
    rows = skipped + document["usable"]
    if skipped / rows > max_skipped:
        raise NothingToJudgeError(
            f"{data}: {skipped:,} of {rows:,} rows are no usable pair",
            f"a share of at most {max_skipped!r} (--max-skipped)",
            "mend the rows named above, or take them out",
        )
