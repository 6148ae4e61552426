"""Compares two runs of the same pairs: transitions between movements, and changes of numbers.

Each run has its own loss. Intervals are for paired differences, because both runs measure the same pairs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from entangle_cli.analysis.statistics import (
    NORMAL_QUANTILE_975,
    QUANTILE_LEVELS,
    Column,
    Interval,
    numbers,
    quantiles,
    share,
)
from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import Movement, Status

Positions = NDArray[np.int64]
COMPARED_FIELDS = ("cosine", "norm_ratio", "slack", "chosen_log_prob", "rejected_log_prob")
SMALLEST_SAMPLE = 10
"""Smallest number of pairs for an interval of a mean or median. With fewer, it would depend on normality."""


class Match(NamedTuple):
    """Positions of the same measured pairs in two runs, and counts of the others."""

    first: Positions
    second: Positions
    only_first: int
    only_second: int


def match_pairs(first: Mapping[str, Column], second: Mapping[str, Column]) -> Match:
    """Match measured pairs by `pair_id`. Repeated pairs are matched in their order.

    Returns:
        Positions in the columns of both runs, in the order of the first.
    """
    left, right = _positions_by_key(first), _positions_by_key(second)
    common = [key for key in left if key in right]
    first_positions, second_positions = (
        np.array([side[key] for key in common], dtype=np.int64) for side in (left, right)
    )
    return Match(first_positions, second_positions, len(left) - len(common), len(right) - len(common))


def _positions_by_key(columns: Mapping[str, Column]) -> dict[tuple[str, int], int]:
    seen: Counter[str] = Counter()
    positions = {}
    for position in np.flatnonzero(columns["status"] == Status.OK.value).tolist():
        pair_id = columns["pair_id"][position]
        positions[pair_id, seen[pair_id]] = position
        seen[pair_id] += 1
    return positions


def compare_runs(first: Mapping[str, Column], second: Mapping[str, Column]) -> dict[str, Any]:
    """Changes from one run to another, JSON-able.

    Args:
        first, second: columns of two runs, each computed under its own loss.
    Returns:
        `matched`, `only_first`, `only_second`; `transitions` from movement to movement, in pairs; `movements`, by name
        the share in each run and its `difference` with an interval; `fields`, by name quantiles in both runs, and mean
        and median of the paired differences with intervals; `log_probs`, the measured changes, and the share with the
        sign predicted by the first run.
    """
    match = match_pairs(first, second)
    before, after = (_rows_at(run, positions) for run, positions in ((first, match.first), (second, match.second)))
    return {
        "matched": len(match.first),
        "only_first": match.only_first,
        "only_second": match.only_second,
        "transitions": _transitions(before["movement"], after["movement"]),
        "movements": {
            kind.value: _share_change(before["movement"] == kind.value, after["movement"] == kind.value)
            for kind in Movement
        },
        "fields": {name: _field_change(numbers(before, name), numbers(after, name)) for name in COMPARED_FIELDS},
        "log_probs": _log_prob_changes(before, after),
    }


def _rows_at(columns: Mapping[str, Column], positions: Positions) -> dict[str, Column]:
    return {name: column[positions] for name, column in columns.items()}


def _transitions(before: Column, after: Column) -> dict[str, dict[str, int]]:
    counts = Counter(zip(before.tolist(), after.tolist(), strict=True))
    names = [kind.value for kind in Movement]
    return {old: {new: counts[old, new] for new in names} for old in names}


def _share_change(before: Column, after: Column) -> dict[str, Any]:
    total = len(before)
    gained, lost = int(np.count_nonzero(after & ~before)), int(np.count_nonzero(before & ~after))
    interval = paired_difference(gained, lost, total)
    return {
        "before": share(int(np.count_nonzero(before)), total),
        "after": share(int(np.count_nonzero(after)), total),
        "difference": (gained - lost) / total if total else None,
        "interval": None if interval is None else list(interval),
    }


def paired_difference(gained: int, lost: int, total: int) -> Interval | None:
    """The 95 % interval of a share's change over the same pairs; None if there are no pairs.

    Wald interval for paired proportions, with half a pair added to each of the four cells: Agresti and Min,
    Statistics in Medicine 24 (2005) 729-740. With b gained and c lost of n,
    d = (b - c) / n and d +- z sqrt(b + c - (b - c)^2 / n) / n.
    """
    if total == 0:
        return None
    more, less, size = gained + 0.5, lost + 0.5, total + 2.0
    difference = (more - less) / size
    spread = NORMAL_QUANTILE_975 * math.sqrt(more + less - (more - less) ** 2 / size) / size
    return Interval(max(-1.0, difference - spread), min(1.0, difference + spread))


def _field_change(before: Floats, after: Floats) -> dict[str, Any]:
    known = np.isfinite(before) & np.isfinite(after)
    old, new = before[known], after[known]
    levels = list(QUANTILE_LEVELS.values())
    missing: list[Any] = [None] * len(levels)
    differences = new - old
    return {
        "pairs": len(old),
        "before": dict(zip(QUANTILE_LEVELS, quantiles(old, levels) or missing, strict=True)),
        "after": dict(zip(QUANTILE_LEVELS, quantiles(new, levels) or missing, strict=True)),
        "mean_difference": float(differences.mean()) if len(old) else None,
        "mean_interval": _as_list(mean_interval(differences)),
        "median_difference": (quantiles(differences, [0.5]) or missing)[0],
        "median_interval": _as_list(median_interval(differences)),
    }


def _as_list(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def mean_interval(differences: Floats) -> Interval | None:
    """The 95 % interval of the mean of paired differences, from Student's t; None below `SMALLEST_SAMPLE` pairs.

    With f = n - 1 degrees of freedom, t = z + (z^3 + z) / 4f + (5 z^5 + 16 z^3 + 3 z) / 96 f^2: Abramowitz and Stegun,
    Handbook of Mathematical Functions, 26.7.5; the error is below 0.004 for f >= 9.
    """
    count = len(differences)
    if count < SMALLEST_SAMPLE:
        return None
    centre = float(differences.mean())
    z, freedom = NORMAL_QUANTILE_975, count - 1
    quantile = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    spread = quantile * float(differences.std(ddof=1)) / math.sqrt(count)
    return Interval(centre - spread, centre + spread)


def median_interval(differences: Floats) -> Interval | None:
    """The 95 % interval of the median of paired differences, from order statistics; None below `SMALLEST_SAMPLE` pairs.

    The number of values below the median is binomial with p = 1/2. The interval is therefore between the ordered
    values number (n - z sqrt(n)) / 2 and (n + z sqrt(n)) / 2.
    """
    count = len(differences)
    if count < SMALLEST_SAMPLE:
        return None
    ordered = np.sort(differences)
    low = max(0, math.floor((count - NORMAL_QUANTILE_975 * math.sqrt(count)) / 2) - 1)
    return Interval(float(ordered[low]), float(ordered[count - 1 - low]))


def _log_prob_changes(before: Mapping[str, Column], after: Mapping[str, Column]) -> dict[str, Any]:
    """Changes of the log-probs between the runs, and the share with the sign predicted by the first run."""
    changes: dict[str, Any] = {}
    for side in ("chosen", "rejected"):
        change = numbers(after, f"{side}_log_prob") - numbers(before, f"{side}_log_prob")
        predicted = numbers(before, f"{side}_delta")
        moved = np.isfinite(change) & (change != 0) & np.isfinite(predicted) & (predicted != 0)
        agreed = int(np.count_nonzero(np.sign(change[moved]) == np.sign(predicted[moved])))
        count = int(np.count_nonzero(moved))
        changes[side] = {
            "fell": share(int(np.count_nonzero(change < 0)), len(change)),
            "mean_change": float(np.nanmean(change)) if np.isfinite(change).any() else None,
            "as_predicted": share(agreed, count),
        }
    return changes
