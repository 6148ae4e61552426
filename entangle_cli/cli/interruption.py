"""Ctrl-C and SIGTERM. Python loses the exception if it is raised in a destructor, so long loops ask too."""

from __future__ import annotations

import signal

_is_requested = False


def interrupt(number: int, frame: object) -> None:
    """Handle SIGTERM as Ctrl-C. Slurm and containers send it a little before they kill a process.

    They may send it twice. After the first, only Ctrl-C interrupts the final work.
    """
    global _is_requested
    _is_requested = True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def refuse_to_go_on() -> None:
    """Raise the exception of an interruption again.

    Raises:
        KeyboardInterrupt: a signal has arrived.
    """
    if _is_requested:
        raise KeyboardInterrupt
