"""How one data set is read, if its word in DATA says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from entangle_cli.records.data_words import parsed_data_word, parsed_map
from entangle_cli.records.settings import ReadingSettings

FIELDS: Mapping[str, str] = {
    "split": "split",
    "config-name": "config_name",
    "data-revision": "revision",
    "data-format": "data_format",
}
"""Option of a word to its setting; `map` sets the columns."""


def reading_of_word(word: str, reading: ReadingSettings) -> ReadingSettings:
    """How a data set is read: as its word says, and else as `reading`.

    Raises:
        UsageError: a map that is not ROLE=COLUMN, or one role twice.
    """
    options = parsed_data_word(word).options
    changed: dict[str, Any] = {FIELDS[option]: value for option, value in options if option in FIELDS}
    maps = [value for option, value in options if option == "map"]
    if maps:
        changed["columns"] = parsed_map(maps, f"{word}: map=", "map=chosen=answer_a")
    return replace(reading, **changed)
