"""DATA on a command line: a name, and after `#` how this one data set is read: `name#split=test&map=chosen=best`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, quote

from entangle_cli.errors import UsageError

READING_OPTIONS = ("split", "config-name", "data-revision", "data-format", "map")
"""Options of a command that DATA may set for one data set, without their dashes."""

_WORD = re.compile(rf"(.+?)#((?:{'|'.join(READING_OPTIONS)})=.*)", re.DOTALL)


class DataWord(NamedTuple):
    """A data set as DATA names it."""

    name: str
    """A file, a folder, a pattern or a hub name."""
    options: Sequence[tuple[str, str]]
    """Option without dashes and value, in order."""


def parsed_data_word(word: str) -> DataWord:
    """The name and the options of a word. A `#` that no option follows belongs to the name."""
    match = _WORD.fullmatch(word)
    if match is None:
        return DataWord(word, ())
    return DataWord(match[1], parse_qsl(match[2], keep_blank_values=True))


def parsed_map(texts: Sequence[str], where: str, example: str) -> dict[str, str]:
    """Role to column, from texts such as `chosen=answer_a`.

    Args:
        where, example: for the message: what the text follows, and how to write it.
    Raises:
        UsageError: a text that is not ROLE=COLUMN, or one role twice.
    """
    columns: dict[str, str] = {}
    for text in texts:
        role, separator, column = text.partition("=")
        if not (role and separator and column) or role in columns:
            raise UsageError(f"{where}{text!r}", "ROLE=COLUMN, each role once", f"write for example {example}")
        columns[role] = column
    return columns


def data_word(name: str, options: Sequence[tuple[str, str]]) -> str:
    """The word that `parsed_data_word` takes apart."""
    if not options:
        return name
    return f"{name}#" + "&".join(f"{option}={quote(value, safe='/=[]:,.')}" for option, value in options)
