"""`entangle tokens`: one pair, token by token."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from entangle_cli.records.words import counted

if TYPE_CHECKING:
    from entangle_cli.api.token_products import TokensObserver


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
    row: Annotated[int, typer.Option("--row", min=0, help="Row of the data, from 0, as a run's `index`.")],
    pair_in_row: Annotated[
        int | None, typer.Option(min=0, help="Which pair of a ranked row; default: the first.")
    ] = None,
    output_format: Annotated[TokensFormat, typer.Option("--format", help="What to write to stdout.")] = (
        TokensFormat.TERMINAL
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")] = None,
    npy_file: Annotated[Path | None, typer.Option("--npy", help="Also write the inner products to this file.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Dtype of the weights.")] = Dtype.FLOAT32,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no plan and no progress.")] = False,
    debug: Debug = False,
) -> None:
    """Show which tokens of one pair pull together and what each token pushes."""
    from entangle_cli import api
    from entangle_cli.report.consoles import show
    from entangle_cli.report.html import write_tokens_page
    from entangle_cli.report.rows import write_json
    from entangle_cli.report.tokens import tokens_report

    weighing = loss.settings(LossSettings())
    api.check_loss(weighing)
    refuse_unwritable(json_file, *pairs.inputs(model, *data))
    refuse_unwritable(npy_file, *pairs.inputs(model, *data), option="--npy")
    if json_file is not None and npy_file is not None and json_file.resolve() == npy_file.resolve():
        raise UsageError(f"--json {json_file} and --npy {npy_file}", "two files", "name another one")
    settings = scan_settings(pairs, policy, weighing, dtype.value)
    # A terminal shows sums and the first tokens alone: the whole matrix is kept only for what holds it.
    with_gram = output_format is TokensFormat.HTML or json_file is not None or npy_file is not None
    observer = _display(quiet=quiet)
    report = api.tokens(model, data, row, settings, pair_in_row=pair_in_row, observer=observer, with_gram=with_gram)
    if output_format is TokensFormat.HTML:
        write_tokens_page(sys.stdout, report.document, report.cosines)
    else:
        show(sys.stdout, tokens_report(report.document, report.shown_cosines))
    if json_file is not None:
        assert report.gram_NN is not None
        document = {**report.document, "inner_products": report.gram_NN.tolist()}
        write_file(json_file, lambda stream: write_json(stream, document))
    if npy_file is not None:
        write_bytes(npy_file, report.npy(), "--npy")


def _display(*, quiet: bool) -> TokensObserver:
    """Shows the plan and the passes on standard error."""
    from entangle_cli.api.token_products import TokensObserver
    from entangle_cli.cli.progress import progress

    class Display(TokensObserver):
        def planned(self, num_tokens: int, num_passes: int, max_tokens: int) -> None:
            passes = counted(num_passes, "pass", "passes")
            tell(f"{counted(num_tokens, 'token')}, {passes} of up to {max_tokens:,} tokens with padding")

        @contextmanager
        def measuring(self, num_passes: int) -> Iterator[Callable[[], None]]:
            with progress(num_passes, 0, quiet=quiet, unit="passes") as advance:
                yield lambda: advance(1)

    return TokensObserver() if quiet else Display()
