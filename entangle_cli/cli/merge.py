"""`entangle merge`: the runs of a job array as one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from entangle_cli.cli.options import Debug


def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ...", help="Runs of all shards of one scan.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the joined run; it must be new.")],
    debug: Debug = False,
) -> None:
    """Join the runs of scan --shard into one run."""
    from entangle_cli.api.run import merge_runs
    from entangle_cli.report.escape import for_terminal

    print(for_terminal(str(merge_runs(runs, output))))
