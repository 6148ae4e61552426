"""A run under a loss as a person reads it: what every report leads with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from entangle_cli.records.pair import Movement
from entangle_cli.records.run import Notice


class Reason(NamedTuple):
    """One thing that explains a run."""

    code: str
    sentence: str
    """With the numbers of this run."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """One thing to do about a run."""

    sentence: str
    """What was measured, or what the command measures."""
    command: str
    """To copy into a shell."""
    setting: str = ""
    """How to set it in TRL, where there is something to set."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many pairs have a movement."""

    movement: Movement
    count: int
    rate: float


@dataclass(frozen=True, slots=True)
class Overview:
    """Verdict, shares, reasons, worst pairs, notices and next steps of a run under a loss."""

    model: str
    data: str
    scope: str
    """Which rows were measured, such as `the first 150 of 400 rows`."""
    loss: str
    """The loss's title, such as DPO; with its numbers where they are not the default ones."""
    loss_words: str
    """Its name with every number."""
    is_partial: bool
    place: str | None
    """The run's folder; None for a run in memory."""
    run_words: str
    """The run under this loss, as words of a command."""
    folder_words: str
    """The run alone, as a word of a command."""
    forecast: str
    """The command that forecasts, without its loss."""
    pairs: int
    """Measured ones."""
    wrong: int
    """Pairs that go the wrong way."""
    verdict: str
    consequence: str
    """What that does to the answers; empty where no pair goes the wrong way."""
    interval: tuple[float, float] | None
    """95 %, of the share that goes the wrong way; None unless the rows are a random sample of more."""
    shares: Sequence[Share]
    """Movements that occur, and `separates` always."""
    without_movement: int
    """Pairs for which the loss has no finite coefficients."""
    uncertain: int
    """Pairs whose movement is within the numerical error."""
    data_sets: Sequence[tuple[str, int, int]]
    """Of a run of several: name, pairs, and pairs that go the wrong way."""
    reasons: Sequence[Reason]
    worst: Sequence[Mapping[str, Any]]
    """Rows that go the wrong way, smallest slack first, each with its reason as `why`."""
    notices: Sequence[Notice]
    not_measured: Mapping[str, int]
    """Reason to number of rows."""
    rows_missing: int
    """Rows that a partial run still lacks."""
    steps: Sequence[NextStep]
