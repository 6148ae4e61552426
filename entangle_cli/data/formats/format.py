"""Types of preference formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class RankedAnswer(NamedTuple):
    """An answer and its rank."""

    rank: float
    """Smaller is better."""
    answer: Any


class NotAPair(Exception):
    """A row has the columns of a format, but holds no usable pair.

    Args:
        reason: reason code of the run document.
        detail: the values found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Format:
    """A format: how to recognise it, and how to rewrite its rows for TRL."""

    name: str
    """Name in `--data-format`."""
    title: str
    matches: Callable[[Row], bool] | None
    """Whether a row has the format's columns; None if only the user can choose the format."""
    rewrite: Callable[[Row], dict[str, Any]]
    """Returns `prompt` (unless the answers contain it), `chosen`, `rejected`, and optionally `tools` and scores. For a
    row with more than two answers it returns `prompt` and `ranked`, a list of `RankedAnswer`, or `chosen` and
    `several_rejected`.

    Raises:
        NotAPair: the row is a tie, its labels disagree, or a column has invalid content.
    """


def has(*names: str) -> Callable[[Row], bool]:
    """A function that checks that a row has non-null values in all given columns."""
    return lambda row: all(row.get(name) is not None for name in names)


def finite_number(value: Any) -> float | None:
    """A finite number, also from text as in CSV; None for anything else."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


SHOWN_CHARACTERS = 40


def shown(value: Any) -> str:
    """The repr of a value, shortened if long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
