"""The numbers behind a page: every shown pair under each distinct loss, distributions, and what goes with movements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from entangle_cli.analysis.losses.table import LOSSES, find_loss, loss_numbers
from entangle_cli.analysis.reasons import pair_reason, run_reasons
from entangle_cli.analysis.shared_words import Piece, shared_pieces
from entangle_cli.analysis.statistics import histogram, quantiles
from entangle_cli.diagnose.views.commands import loss_options
from entangle_cli.diagnose.views.movements import describe_loss, weighted_log_ratios, with_movements
from entangle_cli.diagnose.views.overview import ORDER, consequence, verdict
from entangle_cli.records.arrays import Floats
from entangle_cli.records.columns import rows_of, taken
from entangle_cli.records.pair import Status
from entangle_cli.records.settings import LossSettings
from entangle_cli.records.words import last_turn

SHOWN_POINTS = 4000
SHOWN_WORST = 500
"""Of the shown points; the others are drawn at random."""
GROUPS = 5
"""Parts of about equal size into which pairs are divided by a number."""
TEXT_PAIRS = 500
"""Pairs that go the wrong way and come with the text of both answers; of more, those with the smallest slack."""
FEWEST_TEXTS = 25
"""Pairs with text where fewer go the wrong way."""
TEXT_CHARACTERS = 10_000
"""Of all answers together: a page of 150 pairs with text stays below 130 kB."""
LEAST_CHARACTERS, MOST_CHARACTERS = 64, 1200
"""Of one answer."""
PROMPT_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class LossView:
    """The run under one loss."""

    name: str
    title: str
    words: str
    others: Sequence[str]
    """Names of losses that move every pair of the run the same way."""
    verdict: str
    consequence: str
    counts: Mapping[str, int]
    """Movement to measured pairs."""
    reasons: Sequence[str]
    numbers: str
    """Its numbers as options of a command."""
    factors: list[list[list[int]]]
    """For every factor and group, pairs by movement in the order of `ORDER`."""
    log_ratios: Floats
    """Of the shown points."""
    movements: list[str | None]
    """Of the shown points."""


@dataclass(frozen=True, slots=True)
class ShownPair:
    """What a page says of one pair."""

    row: int
    line: int | None
    file: str | None
    why: str
    chosen_tokens: int
    rejected_tokens: int
    prompt: str | None
    """Its first words; None where the run holds no text."""
    chosen: Sequence[Piece] | None
    """The start of the answer, in pieces; None where the page has no text of it."""
    rejected: Sequence[Piece] | None


@dataclass(frozen=True, slots=True)
class Distribution:
    """Counts of a field between edges."""

    field: str
    edges: list[float]
    counts: list[int]
    outside: int
    """Pairs beyond the edges."""


@dataclass(frozen=True, slots=True)
class Factor:
    """Pairs in groups by a number that may go with their movement."""

    title: str
    groups: list[tuple[str, int]]
    """Range of every group in words, and its pairs."""


@dataclass(frozen=True, slots=True)
class PageData:
    """Of the measured pairs of a run, seen under a loss."""

    log_ratios: Floats
    cosines: Floats
    shown: list[int]
    """Places of the pairs that are drawn as points."""
    pairs: list[ShownPair]
    """The shown points."""
    losses: list[LossView]
    """The run's own first, then one of every group of losses that differ."""
    distributions: list[Distribution]
    factors: list[Factor]


def page_data(
    columns: Mapping[str, Any],
    loss: LossSettings,
    dtype: str,
    comparison: Mapping[str, Any],
    layers: Sequence[Mapping[str, Any]],
) -> PageData:
    """Everything that a page draws.

    Args:
        columns: a run's, seen under the loss.
        comparison: the run under every loss; see `movements.losses_compared`.
        layers: the run's layer profile.
    """
    measured = columns["status"] == Status.OK.value
    pairs = {name: column[measured] for name, column in columns.items()}
    shown = _shown(pairs["slack"])
    factors = [
        (Factor(title, [(name, int(np.count_nonzero(inside))) for name, inside in groups]), groups)
        for title, values, form in _factors(pairs)
        if (groups := _groups(values, form))
    ]
    masks = [[inside for _, inside in groups] for _, groups in factors]
    views = [_view(pairs, each, others, dtype, shown, layers, masks) for each, others in _distinct(comparison, loss)]
    return PageData(
        log_ratios=weighted_log_ratios(pairs, loss),
        cosines=pairs["cosine"],
        shown=shown,
        pairs=_pairs(taken(pairs, shown)),
        losses=views,
        distributions=[
            _distribution(pairs["cosine"], "cosine", -1.0, 1.0),
            _distribution(np.log(pairs["norm_ratio"]), "log of the norm ratio", -2.0, 2.0),
            _distribution(pairs["slack"], "slack", -1.0, 3.0),
        ],
        factors=[factor for factor, _ in factors],
    )


def _distinct(comparison: Mapping[str, Any], own: LossSettings) -> list[tuple[LossSettings, list[str]]]:
    """One loss of every group that moves all pairs alike, with the names of the others."""
    groups: dict[str, list[str]] = {}
    for row in comparison["losses"]:
        groups.setdefault(row["same_as"] or row["name"], []).append(row["name"])
    numbers = {row["name"]: dict(row["numbers"]) for row in comparison["losses"]}
    found = []
    for first, names in groups.items():
        settings = own
        if first != own.name:
            options = numbers[first]
            beta = options.pop("beta", LOSSES[first].customary_beta)
            settings = LossSettings(first, beta, options)
        found.append((settings, names[1:]))
    return found


def _shown(slack: Floats) -> list[int]:
    """All pairs, or the worst and a random part of the others, in the order of the data."""
    if len(slack) <= SHOWN_POINTS:
        return list(range(len(slack)))
    order = np.argsort(np.where(np.isnan(slack), np.inf, slack), kind="stable")
    rest = np.random.default_rng(0).choice(order[SHOWN_WORST:], SHOWN_POINTS - SHOWN_WORST, replace=False)
    return sorted(map(int, [*order[:SHOWN_WORST], *rest]))


def _view(
    pairs: Mapping[str, Any],
    loss: LossSettings,
    others: list[str],
    dtype: str,
    shown: list[int],
    layers: Sequence[Mapping[str, Any]],
    factors: Sequence[Sequence[Any]],
) -> LossView:
    seen = with_movements(pairs, loss, dtype)
    movement = seen["movement"]
    counts = {kind: int(np.count_nonzero(movement == kind.value)) for kind in ORDER}
    return LossView(
        name=loss.name,
        title=find_loss(loss.name).title,
        words=describe_loss(loss),
        others=others,
        verdict=verdict(counts, len(movement)),
        consequence=consequence(counts),
        counts={kind.value: count for kind, count in counts.items()},
        reasons=[reason.sentence for reason in run_reasons(seen, layers)],
        numbers=loss_options(loss_numbers(loss)),
        factors=[
            [[int(np.count_nonzero(movement[inside] == kind.value)) for kind in ORDER] for inside in groups]
            for groups in factors
        ],
        log_ratios=weighted_log_ratios(pairs, loss)[shown],
        movements=[movement[place] for place in shown],
    )


def _pairs(columns: Mapping[str, Any]) -> list[ShownPair]:
    slack = np.where(np.isnan(columns["slack"]), np.inf, columns["slack"])
    count = min(TEXT_PAIRS, max(FEWEST_TEXTS, int(np.count_nonzero(slack < 0))))
    with_text = set(np.argsort(slack, kind="stable")[:count].tolist())
    characters = max(LEAST_CHARACTERS, min(MOST_CHARACTERS, TEXT_CHARACTERS // max(1, 2 * len(with_text))))
    return [_pair(row, characters if place in with_text else 0) for place, row in enumerate(rows_of(columns))]


def _pair(row: Mapping[str, Any], characters: int) -> ShownPair:
    chosen = rejected = None
    if characters and row["chosen_text"] is not None and row["rejected_text"] is not None:
        chosen, rejected = shared_pieces(*(_start(row[f"{side}_text"], characters) for side in ("chosen", "rejected")))
    return ShownPair(
        row=row["index"],
        line=row["line"],
        file=row["file"],
        why=pair_reason(row),
        chosen_tokens=row["chosen_tokens"],
        rejected_tokens=row["rejected_tokens"],
        prompt=None if row["prompt_text"] is None else _start(last_turn(row["prompt_text"]), PROMPT_CHARACTERS),
        chosen=chosen,
        rejected=rejected,
    )


def _start(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[:characters].rstrip() + " ..."


def _distribution(values: Floats, field: str, low: float, high: float) -> Distribution:
    found = histogram(values, low, high, 40)
    known = int(np.count_nonzero(np.isfinite(values)))
    return Distribution(field, found.edges, found.counts, known - sum(found.counts))


def _factors(pairs: Mapping[str, Any]) -> list[tuple[str, Floats, str]]:
    """What may go with a pair's movement: title, values and how they are written."""
    longest = np.maximum(pairs["chosen_tokens"], pairs["rejected_tokens"])
    shortest = np.minimum(pairs["chosen_tokens"], pairs["rejected_tokens"])
    with np.errstate(invalid="ignore", divide="ignore"):
        return [
            ("longer answer over the shorter, in tokens", longest / shortest, "{:.1f}"),
            ("shared tokens, per cent of the longer answer", 100 * (1 - pairs["edit_distance"] / longest), "{:.0f}"),
            ("row in the data", pairs["index"].astype(float), "{:.0f}"),
        ]


def _groups(values: Floats, form: str) -> list[tuple[str, Any]]:
    """Groups of about equal size: the range of each in words, and which pairs are in it."""
    edges = quantiles(values, [place / GROUPS for place in range(GROUPS + 1)])
    if edges is None:
        return []
    distinct = sorted(set(edges))
    bounds = list(pairwise(distinct)) or [(distinct[0], distinct[0])]
    groups = []
    for place, (low, high) in enumerate(bounds):
        inside = (values >= low) & ((values <= high) if place == len(bounds) - 1 else (values < high))
        name = f"{form.format(low)} to {form.format(high)}" if low < high else form.format(low)
        if inside.any():
            groups.append((name, inside))
    return groups
