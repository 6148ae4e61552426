"""Where text goes: a terminal, or a stream that gets plain text of full width without trailing blanks."""

from __future__ import annotations

import os
from typing import IO

from rich.console import Console, RenderableType

LARGEST_WIDTH = 10_000
PLAIN_WIDTH = 120


class _WithoutTrailingBlanks:
    """Writes whole lines to a stream, each without the blanks at its end."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._line = ""

    def write(self, text: str) -> int:
        """Write what ends with a line break; keep the rest."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._stream.write(line.rstrip(" ") + "\n")
        return len(text)

    def flush(self) -> None:
        """Write what is left."""
        self._stream.write(self._line)
        self._line = ""
        self._stream.flush()

    def isatty(self) -> bool:
        """It is no terminal."""
        return False

    @property
    def encoding(self) -> str:
        """Of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"


def console_for(stream: IO[str]) -> Console:
    """A console on a stream; what is not a terminal gets plain text of full width."""
    columns = os.environ.get("COLUMNS", "")
    chosen = int(columns) if columns.isascii() and columns.isdecimal() and 0 < int(columns) <= LARGEST_WIDTH else None
    if stream.isatty():
        return Console(file=stream, highlight=False, markup=False, emoji=False)
    plain: IO[str] = _WithoutTrailingBlanks(stream)  # type: ignore[assignment]
    return Console(file=plain, width=chosen or PLAIN_WIDTH, highlight=False, markup=False, emoji=False)


def show(stream: IO[str], renderable: RenderableType) -> None:
    """Print on a stream; a command that is longer than the terminal is not cut."""
    console_for(stream).print(renderable, crop=False)


def can_show(console: Console, text: str) -> bool:
    """Whether the console's encoding has the characters of a text."""
    try:
        text.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
