"""`entangle doctor`: what is wrong before a training starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from entangle_cli.cli.from_file import PARAMETER, FromFile
from entangle_cli.cli.json_file import refuse_unwritable, write_file
from entangle_cli.cli.lora import Lora, lora_settings
from entangle_cli.cli.option_groups import PairOptions, PolicyOptions, SampleOptions, scan_settings
from entangle_cli.cli.options import Debug, Device, RefModel
from entangle_cli.errors import ExitCode
from entangle_cli.records.settings import Dtype, LossSettings

ROWS = 256
"""Rows to look at by default."""


def doctor(
    *,
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Checkpoint to look at; default: none, or the file's.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Argument(metavar="[DATA...]", help="Preference pairs; default: none, or the file's.")
    ] = None,
    pairs: PairOptions,
    from_file: FromFile = None,
    limit: Annotated[int, typer.Option(min=1, help="Look at only this many rows from the start.")] = ROWS,
    lora: Lora = None,
    ref_model: RefModel = None,
    dtype: Annotated[Dtype, typer.Option(help="Dtype of the weights.")] = Dtype.FLOAT32,
    device: Device = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if there is an error or a warning.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the findings.")] = False,
    debug: Debug = False,
) -> None:
    """Examine versions, a model, data and a trainer's file before a training."""
    from entangle_cli.api.doctoring import examine
    from entangle_cli.report.consoles import show
    from entangle_cli.report.doctor import doctor_report
    from entangle_cli.report.rows import write_json

    names = data or []
    refuse_unwritable(json_file, *pairs.inputs(model, *names, ref_model))
    settings = scan_settings(
        pairs,
        PolicyOptions(device=device),
        LossSettings(),
        dtype.value,
        SampleOptions(limit=limit),
        lora=None if lora is None else lora_settings(lora),
        ref_model=ref_model,
    )
    taken = context.meta.get(PARAMETER)
    document = examine(model, names, settings, None if taken is None else taken.setup)
    show(sys.stdout, doctor_report(document, only_findings=quiet))
    if json_file is not None:
        write_file(json_file, lambda stream: write_json(stream, document))
    if strict and any(one["severity"] != "note" for one in document["findings"]):
        raise typer.Exit(ExitCode.INPUT)
