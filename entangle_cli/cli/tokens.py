"""`entangle tokens`: one pair, token by token."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from entangle_cli.cli.json_file import refuse_unwritable, write_bytes, write_file
from entangle_cli.cli.option_groups import LossChoice, PairOptions, PolicyOptions, scan_settings
from entangle_cli.cli.options import (
    Data,
    Debug,
    Model,
)
from entangle_cli.cli.tell import tell
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import Dtype, LossSettings


class TokensFormat(StrEnum):
    """Outputs of `entangle tokens`."""

    TERMINAL = "terminal"
    HTML = "html"


def tokens(
    *,
    model: Model,
    data: Data,
    pairs: PairOptions,
    policy: PolicyOptions,
    loss: LossChoice,
    pair: Annotated[int, typer.Option("--pair", min=0, help="Index of the row, as a scan's `index`.")],
    pair_in_row: Annotated[
        int | None, typer.Option(min=0, help="Which pair of a ranked row; default: the first.")
    ] = None,
    output_format: Annotated[TokensFormat, typer.Option("--format", help="What to write to stdout.")] = (
        TokensFormat.TERMINAL
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")] = None,
    npy_file: Annotated[Path | None, typer.Option("--npy", help="Also write the inner products to this file.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Dtype of the weights.")] = Dtype.FLOAT32,
    debug: Debug = False,
) -> None:
    """Show which tokens of one pair pull together and what each token pushes."""
    from entangle_cli import api
    from entangle_cli.report.html import write_tokens_page
    from entangle_cli.report.rows import write_json
    from entangle_cli.report.terminal import console_for
    from entangle_cli.report.tokens import tokens_report

    weighing = loss.settings(LossSettings())
    api.check_loss(weighing)
    refuse_unwritable(json_file, *pairs.inputs(model, *data))
    refuse_unwritable(npy_file, *pairs.inputs(model, *data), option="--npy")
    if json_file is not None and npy_file is not None and json_file.resolve() == npy_file.resolve():
        raise UsageError(f"--json {json_file} and --npy {npy_file}", "two files", "name another one")
    settings = scan_settings(pairs, policy, weighing, dtype.value)
    found = api.tokens(model, data, pair, settings, pair_in_row=pair_in_row, said=tell)
    if output_format is TokensFormat.HTML:
        write_tokens_page(sys.stdout, found.document, found.cosines)
    else:
        console_for(sys.stdout).print(tokens_report(found.document, found.cosines))
    if json_file is not None:
        document = {**found.document, "inner_products": found.gram_NN.tolist()}
        write_file(json_file, lambda stream: write_json(stream, document))
    if npy_file is not None:
        write_bytes(npy_file, found.npy(), "--npy")
