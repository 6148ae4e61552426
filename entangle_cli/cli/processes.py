"""The processes of a torchrun around a scan: whatever happens in which, the message and exit code are rank 0's."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from entangle_cli.cli.tell import tell
from entangle_cli.diagnose.processes.launch import TorchrunProcess, launched
from entangle_cli.diagnose.processes.mailbox import LostProcessError
from entangle_cli.errors import EntangleError, unexpected


@contextmanager
def scan_processes(*, debug: bool) -> Iterator[TorchrunProcess]:
    """This process and those beside it, for the time of a scan.

    A final result is noted, so torchrun's --max-restarts does not start the scan again. An unexpected failure or a
    lost process may be retried.

    Raises:
        typer.Exit: an earlier start ended for good.
        LostProcessError: another process, or torchrun, is gone.
    """
    with launched(tell) as launch:
        if launch.ended_with is not None:
            raise typer.Exit(launch.ended_with)
        try:
            yield launch
        except typer.Exit as end:
            launch.end(end.exit_code)
            raise
        except LostProcessError:
            raise
        except EntangleError as error:
            launch.ranks.fail(error)
            launch.end(error.exit_code)
            raise
        except Exception as error:
            if launch.ranks.rank > 0 and debug:
                traceback.print_exc()
            launch.ranks.fail(LostProcessError(*unexpected(error)))
            raise
