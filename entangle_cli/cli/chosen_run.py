"""The run that a command names, under the loss that it names."""

from __future__ import annotations

from pathlib import Path

from entangle_cli.api.run import Run, newest_folder, read
from entangle_cli.cli.options import loss_settings
from entangle_cli.cli.tell import tell


def chosen_run(
    folder: Path | None,
    loss: str | None,
    beta: float | None,
    gamma: float | None,
    loss_option: list[str] | None,
) -> Run:
    """Read a run and see it under the loss of the options; those that are not given are the run's own.

    Args:
        folder: None for the newest run, which is named on standard error.
    """
    if folder is None:
        folder, empty = newest_folder()
        tell(f"run {folder}" + "".join(f"; newer, but without a measured pair: {path}" for path in empty))
    run = read(folder)
    return run.under(loss_settings(run.loss, loss, beta, gamma, loss_option))
