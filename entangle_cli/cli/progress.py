"""Progress of a scan on stderr: a bar in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from entangle_cli.cli.interruption import refuse_to_go_on
from entangle_cli.cli.tell import tell
from entangle_cli.report.consoles import console_for

PLAIN_LINE_SECONDS = 30.0


class Advance(Protocol):
    """Takes note of rows that were just finished."""

    def __call__(self, num_rows: int) -> None:
        """Add `num_rows` to what is done."""


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g} {self._unit}/s")


@contextmanager
def progress(total: int, done: int, *, quiet: bool, unit: str = "rows") -> Iterator[Advance]:
    """Show progress while the context lasts.

    Args:
        total: rows of the whole scan.
        done: rows finished before, by an earlier start of the same run.
    Raises:
        KeyboardInterrupt: by the yielded function, after a signal.
    """
    with _shown(total, done, quiet=quiet, unit=unit) as advance:

        def advance_unless_interrupted(num_rows: int) -> None:
            refuse_to_go_on()
            advance(num_rows)

        yield advance_unless_interrupted


@contextmanager
def _shown(total: int, done: int, *, quiet: bool, unit: str) -> Iterator[Advance]:
    if quiet:
        yield lambda num_rows: None  # noqa: ARG005 -- called by keyword
    elif sys.stderr.isatty():
        columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), _Speed(unit), TimeRemainingColumn())
        with Progress(*columns, console=console_for(sys.stderr), transient=True) as bar:
            task = bar.add_task("scan", total=total, completed=done)
            yield lambda num_rows: bar.advance(task, num_rows)
    else:
        yield _PlainLines(total, done, unit)


class _PlainLines:
    """A status line every `PLAIN_LINE_SECONDS`."""

    def __init__(self, total: int, done: int, unit: str) -> None:
        self._unit = unit
        self._total = total
        self._done = self._done_before = done
        self._start = self._last = time.monotonic()

    def __call__(self, num_rows: int) -> None:
        self._done += num_rows
        now = time.monotonic()
        if now - self._last >= PLAIN_LINE_SECONDS:
            self._last = now
            speed = (self._done - self._done_before) / (now - self._start)
            left = f", {(self._total - self._done) / speed:,.0f} s left" if speed else ""
            tell(f"{self._done:,} of {self._total:,} {self._unit}, {speed:.3g} {self._unit}/s{left}")
