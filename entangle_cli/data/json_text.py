"""JSON values read from a text one after another, a piece of the text at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from entangle_cli.data.fingerprint import READ_BYTES


class Parser:
    """Parses JSON, and notes objects that have a key twice.

    Attributes:
        has_duplicate_key: whether an object parsed since the last `reset` has a key twice.
    """

    def __init__(self) -> None:
        self.has_duplicate_key = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            self.has_duplicate_key = True
        return found

    def reset(self) -> None:
        """Forget what was noted."""
        self.has_duplicate_key = False

    def loads(self, text: str) -> Any:
        """The one value that a text holds."""
        return self._decoder.decode(text)

    def raw_decode(self, text: str, start: int) -> tuple[Any, int]:
        """The value that begins at a place of a text, and where it ends."""
        return self._decoder.raw_decode(text, start)


@dataclass(frozen=True, slots=True)
class Element:
    """A value within a text."""

    line: int
    """On which it begins, from 1."""
    value: Any
    has_duplicate_key: bool


def array_elements(file: IO[str], limit: int) -> Iterator[Element]:
    """The elements of a JSON array.

    Args:
        limit: characters of the longest element.
    Raises:
        ValueError: the text is no JSON array, or an element is longer.
    """
    text = _Text(file, limit)
    text.take("[")
    if not text.takes("]"):
        while True:
            yield text.element()
            if text.takes("]"):
                break
            text.take(",")
    text.skip_space()
    if not text.is_at_end():
        raise ValueError("there is more behind the array")


def values(file: IO[str], limit: int) -> Iterator[Element]:
    """JSON values that stand one after another, on one line each or on several.

    Args:
        limit: characters of the longest value.
    Raises:
        ValueError: something else, or a longer value.
    """
    text = _Text(file, limit)
    text.skip_space()
    while not text.is_at_end():
        yield text.element()
        text.skip_space()


class _Text:
    """A text that is read as far as it is needed."""

    def __init__(self, file: IO[str], limit: int) -> None:
        self._file = file
        self._limit = limit
        self._text = ""
        self._place = 0
        self._parser = Parser()
        self.line = 1

    def _read(self) -> bool:
        """Read on; twice as much each time that one value needs more. False at the end."""
        rest = self._text[self._place :]
        self._refuse_longer(len(rest))
        more = self._file.read(max(READ_BYTES, len(rest)))
        self._text, self._place = rest + more, 0
        return bool(more)

    def _refuse_longer(self, length: int) -> None:
        if length > self._limit:
            limit = f"{self._limit:,} characters; --max-row-bytes raises the limit"
            raise ValueError(f"line {self.line}: a value of more than {limit}")

    def _advance(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def skip_space(self) -> None:
        """Go on to what is no white space, or to the end."""
        while True:
            rest = self._text[self._place : self._place + 1]
            if rest and not rest.isspace():
                return
            if rest:
                self._advance(self._place + 1)
            elif not self._read():
                return

    def is_at_end(self) -> bool:
        """Whether nothing is left."""
        return self._place == len(self._text) and not self._read()

    def takes(self, mark: str) -> bool:
        """Go past a mark if it comes next."""
        self.skip_space()
        if not self._text.startswith(mark, self._place):
            return False
        self._advance(self._place + 1)
        return True

    def take(self, mark: str) -> None:
        """Go past a mark that must come next."""
        if not self.takes(mark):
            raise ValueError(f"line {self.line}: {mark!r} was expected")

    def element(self) -> Element:
        """The JSON value that comes next."""
        self.skip_space()
        line = self.line
        while True:
            self._parser.reset()
            try:
                value, end = self._parser.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if not self._read():
                    place = self.line + self._text.count("\n", self._place, error.pos)
                    raise ValueError(f"line {place}: {error.msg}") from error
                continue
            # A number at the end of what was read may go on.
            if end < len(self._text) or not self._read():
                self._refuse_longer(end - self._place)
                self._advance(end)
                return Element(line, value, self._parser.has_duplicate_key)
