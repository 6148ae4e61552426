"""The run that a command names, under the loss that it names."""

from __future__ import annotations

from pathlib import Path

from entangle_cli.api.run import Run, newest_folder, read
from entangle_cli.cli.option_groups import LossChoice
from entangle_cli.cli.tell import tell


def chosen_run(folder: Path | None, loss: LossChoice) -> Run:
    """Read a run and see it under the loss of the options; what is not given is the run's own.

    Args:
        folder: None for the newest run, which is named on standard error.
    """
    if folder is None:
        folder, empty = newest_folder()
        tell(f"run {folder}" + "".join(f"; newer, but without a measured pair: {path}" for path in empty))
    run = read(folder)
    return run.under(loss.settings(run.loss))
