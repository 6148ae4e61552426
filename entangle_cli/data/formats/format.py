"""What a preference format is."""

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
        reason: as in the run document.
        detail: what was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Format:
    """A format: how it is recognised, and how a row of it becomes one of TRL's."""

    name: str
    """As `--data-format` has it."""
    title: str
    matches: Callable[[Row], bool] | None
    """Whether a row has its columns; None where only the user can tell."""
    rewrite: Callable[[Row], dict[str, Any]]
    """Gives `prompt` (unless the answers hold it), `chosen`, `rejected` and perhaps `tools` and scores. Where a row has
    more than two answers it gives `prompt` and `ranked`, a list of `RankedAnswer`, or `chosen` and `several_rejected`.

    Raises:
        NotAPair: a tie, labels that disagree, or columns that do not hold what the format says.
    """


def has(*names: str) -> Callable[[Row], bool]:
    """A test whether a row holds something in each of some columns."""
    return lambda row: all(row.get(name) is not None for name in names)


def finite_number(value: Any) -> float | None:
    """A finite number, also one written as text, as in CSV; None for anything else."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


SHOWN_CHARACTERS = 40


def shown(value: Any) -> str:
    """A value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
