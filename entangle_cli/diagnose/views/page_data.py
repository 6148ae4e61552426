"""The numbers behind a report's figures: every pair's place in the map, under several losses, and distributions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from entangle_cli.analysis.losses.table import LOSSES
from entangle_cli.analysis.statistics import histogram, quantiles
from entangle_cli.diagnose.views.movements import describe_loss, weighted_log_ratios, with_movements
from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import Movement, Status
from entangle_cli.records.settings import LossSettings

SHOWN_POINTS = 4000
SHOWN_WORST = 500
"""Of the shown points; the others are drawn at random."""
SWITCHED_LOSSES = (
    "sigmoid",
    "ipo",
    "simpo",
    "sigmoid_norm",
    "dpop",
    "sigmoid_sft",
    "cpo",
    "orpo",
    "apo_zero",
    "apo_down",
    "nca_pair",
)
GROUPS = 5
"""Parts of about equal size into which pairs are divided by a number."""


@dataclass(frozen=True, slots=True)
class LossView:
    """The shown points under a loss."""

    words: str
    log_ratios: Floats
    movements: list[str | None]
    shares: Mapping[str, float]
    """Of all measured pairs."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Counts of a field between edges."""

    field: str
    edges: list[float]
    counts: list[int]
    outside: int
    """Pairs beyond the edges."""


@dataclass(frozen=True, slots=True)
class Grouped:
    """Shares of each movement among pairs grouped by a field."""

    field: str
    rows: list[tuple[str, list[float]]]
    """Range of the group in words, and a share for each movement."""


@dataclass(frozen=True, slots=True)
class PageData:
    """Of the measured pairs of a run, seen under a loss."""

    log_ratios: Floats
    cosines: Floats
    movements: list[str]
    rows: list[int]
    """Their indices in the data."""
    shown: list[int]
    """Places of the pairs that are drawn as points."""
    losses: list[LossView]
    """The run's own first."""
    distributions: list[Distribution]
    grouped: list[Grouped]


def page_data(columns: Mapping[str, Any], loss: LossSettings, dtype: str) -> PageData:
    """Everything that a page draws.

    Args:
        columns: a run's, seen under the loss.
    """
    measured = columns["status"] == Status.OK.value
    pairs = {name: column[measured] for name, column in columns.items()}
    shown = _shown(pairs["slack"])
    return PageData(
        log_ratios=weighted_log_ratios(pairs, loss),
        cosines=pairs["cosine"],
        movements=[str(movement) for movement in pairs["movement"]],
        rows=pairs["index"].tolist(),
        shown=shown,
        losses=[_view(pairs, own, dtype, shown) for own in _losses(loss)],
        distributions=[
            _distribution(pairs["cosine"], "cosine", -1.0, 1.0),
            _distribution(np.log(pairs["norm_ratio"]), "log of the norm ratio", -2.0, 2.0),
            _distribution(pairs["slack"], "slack", -1.0, 3.0),
        ],
        grouped=[
            _grouped(values, pairs["movement"], name)
            for name, values in (
                ("tokens of both answers", pairs["chosen_tokens"] + pairs["rejected_tokens"]),
                ("edit distance in tokens", pairs["edit_distance"]),
                ("shared prefix in tokens", pairs["shared_prefix_tokens"]),
            )
        ],
    )


def _losses(loss: LossSettings) -> list[LossSettings]:
    others = [LossSettings(name, loss.beta) for name in SWITCHED_LOSSES if name in LOSSES and name != loss.name]
    return [loss, *others]


def _shown(slack: Floats) -> list[int]:
    """All pairs, or the worst and a random part of the others, in the order of the data."""
    if len(slack) <= SHOWN_POINTS:
        return list(range(len(slack)))
    order = np.argsort(np.where(np.isnan(slack), np.inf, slack), kind="stable")
    rest = np.random.default_rng(0).choice(order[SHOWN_WORST:], SHOWN_POINTS - SHOWN_WORST, replace=False)
    return sorted(map(int, [*order[:SHOWN_WORST], *rest]))


def _view(pairs: Mapping[str, Any], loss: LossSettings, dtype: str, shown: list[int]) -> LossView:
    movement = with_movements(pairs, loss, dtype)["movement"]
    total = max(1, len(movement))
    return LossView(
        words=describe_loss(loss),
        log_ratios=weighted_log_ratios(pairs, loss)[shown],
        movements=[movement[place] for place in shown],
        shares={kind.value: float(np.count_nonzero(movement == kind.value)) / total for kind in Movement},
    )


def _distribution(values: Floats, field: str, low: float, high: float) -> Distribution:
    found = histogram(values, low, high, 40)
    known = int(np.count_nonzero(np.isfinite(values)))
    return Distribution(field, found.edges, found.counts, known - sum(found.counts))


def _grouped(values: Floats, movement: Any, field: str) -> Grouped:
    edges = quantiles(values, [place / GROUPS for place in range(GROUPS + 1)])
    if edges is None:
        return Grouped(field, [])
    rows = []
    distinct = sorted(set(edges))
    bounds = list(pairwise(distinct)) or [(distinct[0], distinct[0])]
    for place, (low, high) in enumerate(bounds):
        inside = (values >= low) & ((values <= high) if place == len(bounds) - 1 else (values < high))
        if count := int(np.count_nonzero(inside)):
            shares = [float(np.count_nonzero(movement[inside] == kind.value)) / count for kind in Movement]
            rows.append((f"{low:.0f} to {high:.0f}" if low < high else f"{low:.0f}", shares))
    return Grouped(field, rows)
