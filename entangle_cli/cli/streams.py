"""Standard output and standard error, which may be closed or full: an exit code must not depend on luck."""

from __future__ import annotations

import errno
import os
import sys
from io import TextIOBase, TextIOWrapper

CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF, errno.EPIPE}
"""What writing to a stream fails with."""


class ClosedStream(TextIOBase):
    """In place of a stream that was closed before we began."""

    encoding = "utf-8"

    def writable(self) -> bool:
        """As of any output."""
        return True

    def write(self, text: str, /) -> int:  # noqa: ARG002
        """Fail as writing to a closed file does."""
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def prepare_streams() -> None:
    """Make the streams such that writing either works or fails with an OSError."""
    # A file that is opened later must not become what other libraries take for standard error.
    null = os.open(os.devnull, os.O_RDWR)
    while null < 3:
        null = os.dup(null)
    os.close(null)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, ClosedStream())
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no bar of a histogram ends a report


def flush_streams() -> bool:
    """Write what is pending, before Python would at its end; False where that fails."""
    written = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            written = False
            _discard(stream)
    return written


def _discard(stream: object) -> None:
    """Python flushes once more when it ends, and would change the exit code to 120."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[attr-defined]
        os.close(null)
    except (OSError, ValueError):
        return
