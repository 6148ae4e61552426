"""Reads consecutive JSON values from a text in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from entangle_cli.data.fingerprint import READ_BYTES


class Parser:
    """Parses JSON and detects duplicate keys.

    Attributes:
        has_duplicate_key: whether an object parsed since the last `reset` has a duplicate key.
    """

    def __init__(self) -> None:
        self.has_duplicate_key = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        parsed = dict(pairs)
        if len(parsed) < len(pairs):
            self.has_duplicate_key = True
        return parsed

    def reset(self) -> None:
        """Set `has_duplicate_key` to False."""
        self.has_duplicate_key = False

    def loads(self, text: str) -> Any:
        """Parse a text with a single value."""
        return self._decoder.decode(text)

    def raw_decode(self, text: str, start: int) -> tuple[Any, int]:
        """Parse the value that begins at `start`. Returns the value and its end position."""
        return self._decoder.raw_decode(text, start)


@dataclass(frozen=True, slots=True)
class Element:
    """A value within a text."""

    line: int
    """Line where it begins, from 1."""
    value: Any
    has_duplicate_key: bool


def array_elements(file: IO[str], limit: int) -> Iterator[Element]:
    """The elements of a JSON array.

    Args:
        limit: maximum characters per element.
    Raises:
        ValueError: the text is not a JSON array, or an element is too long.
    """
    text = _Text(file, limit)
    text.expect("[")
    if not text.skip("]"):
        while True:
            yield text.element()
            if text.skip("]"):
                break
            text.expect(",")
    text.skip_space()
    if not text.is_at_end():
        raise ValueError("unexpected text after the array")


def values(file: IO[str], limit: int) -> Iterator[Element]:
    """Consecutive JSON values. A value may span several lines.

    Args:
        limit: maximum characters per value.
    Raises:
        ValueError: the text is not valid JSON, or a value is too long.
    """
    text = _Text(file, limit)
    text.skip_space()
    while not text.is_at_end():
        yield text.element()
        text.skip_space()


class _Text:
    """A text that is read on demand."""

    def __init__(self, file: IO[str], limit: int) -> None:
        self._file = file
        self._limit = limit
        self._text = ""
        self._position = 0
        self._parser = Parser()
        self.line = 1

    def _read(self) -> bool:
        """Read more text, doubling the amount each time a value needs more. Returns False at the end."""
        rest = self._text[self._position :]
        self._refuse_longer(len(rest))
        more = self._file.read(max(READ_BYTES, len(rest)))
        self._text, self._position = rest + more, 0
        return bool(more)

    def _refuse_longer(self, length: int) -> None:
        if length > self._limit:
            limit = f"{self._limit:,} characters; --max-row-bytes raises the limit"
            raise ValueError(f"line {self.line}: a value of more than {limit}")

    def _advance(self, end: int) -> None:
        self.line += self._text.count("\n", self._position, end)
        self._position = end

    def skip_space(self) -> None:
        """Skip white space."""
        while True:
            rest = self._text[self._position : self._position + 1]
            if rest and not rest.isspace():
                return
            if rest:
                self._advance(self._position + 1)
            elif not self._read():
                return

    def is_at_end(self) -> bool:
        """Whether no text is left."""
        return self._position == len(self._text) and not self._read()

    def skip(self, mark: str) -> bool:
        """Skip a mark if it comes next. Returns whether it did."""
        self.skip_space()
        if not self._text.startswith(mark, self._position):
            return False
        self._advance(self._position + 1)
        return True

    def expect(self, mark: str) -> None:
        """Skip a mark that must come next.

        Raises:
            ValueError: another character comes next.
        """
        if not self.skip(mark):
            raise ValueError(f"line {self.line}: expected {mark!r}")

    def element(self) -> Element:
        """Parse the next JSON value."""
        self.skip_space()
        line = self.line
        while True:
            self._parser.reset()
            try:
                value, end = self._parser.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                if not self._read():
                    line = self.line + self._text.count("\n", self._position, error.pos)
                    raise ValueError(f"line {line}: {error.msg}") from error
                continue
            # A number at the end of the text read so far may continue.
            if end < len(self._text) or not self._read():
                self._refuse_longer(end - self._position)
                self._advance(end)
                return Element(line, value, self._parser.has_duplicate_key)
