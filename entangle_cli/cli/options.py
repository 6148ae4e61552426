"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LossName = Annotated[str, typer.Option("--loss", help="Preference loss whose coefficients weigh the two gradients.")]
Beta = Annotated[float, typer.Option("--beta", help="Inverse temperature of the loss, as in TRL.")]
FailIf = Annotated[
    list[str] | None,
    typer.Option("--fail-if", metavar="'METRIC OP VALUE'", help="Exit 1 where it is true; may be given repeatedly."),
]
RunFolder = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run's folder; default: the newest.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
