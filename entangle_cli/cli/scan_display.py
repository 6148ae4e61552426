"""What a scan shows while it goes on: its plan, its run, its progress; and the end of its time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from entangle_cli.api.scanning import ScanObserver
from entangle_cli.cli.deadline import Deadline
from entangle_cli.cli.progress import Advance, progress
from entangle_cli.cli.tell import tell
from entangle_cli.records.plan import ScanPlan
from entangle_cli.records.words import counted
from entangle_cli.report.consoles import console_for
from entangle_cli.report.plan import plan_lines


class ScanDisplay(ScanObserver):
    """Shows on standard error how a scan goes on, and ends it at the deadline.

    Args:
        quiet: show nothing but an interruption.
    """

    def __init__(self, deadline: Deadline, *, quiet: bool) -> None:
        self._deadline = deadline
        self._quiet = quiet
        self._advance: Advance | None = None

    def noticed(self, message: str) -> None:
        """Show a message about the workers."""
        if not self._quiet:
            tell(message)

    def planned(self, plan: ScanPlan) -> None:
        """Show the plan."""
        if not self._quiet:
            console_for(sys.stderr).print(plan_lines(plan))

    def opened(self, folder: Path, num_pairs: int) -> None:
        """Name the run."""
        if not self._quiet:
            again = f", goes on after {counted(num_pairs, 'pair')}" if num_pairs else ""
            tell(f"{folder}{again}", prefix="run         ")

    @contextmanager
    def measuring(self, num_rows: int, num_done: int) -> Iterator[None]:
        """Show progress."""
        with progress(num_rows, num_done, quiet=self._quiet) as self._advance:
            yield

    def measured(self, num_rows: int, num_pairs: int) -> None:
        """Advance, and look at the clock."""
        assert self._advance is not None
        self._advance(num_rows=num_rows)
        self._deadline.check(num_pairs)

    def interrupted(self, folder: Path, num_pairs: int, num_rows: int) -> None:
        """Say what is kept."""
        tell(
            f"{counted(num_pairs, 'pair')} of {counted(num_rows, 'row')} in {folder}; the same command goes on from "
            "there",
            prefix="interrupted: ",
        )
