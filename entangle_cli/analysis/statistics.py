"""Shares, quantiles, histograms and the summary of a run, without a verdict.

A column is a numpy array with one entry per row, named like a field of `PairRecord`. Null is NaN for numbers, and None
for strings and booleans. All statistics exclude nulls; null never counts as 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import Movement, Status

Booleans: TypeAlias = NDArray[np.bool_]
Column: TypeAlias = NDArray[Any]

NORMAL_QUANTILE_975 = 1.959963984540054
"""Two-sided 95 % point of the standard normal distribution."""
SUMMARISED_FIELDS = (
    "cosine",
    "unshared_cosine",
    "norm_ratio",
    "chosen_condition",
    "rejected_condition",
    "inner_product",
    "chosen_delta",
    "rejected_delta",
    "slack",
)
QUANTILE_LEVELS = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
COSINE_BINS = 20
POSITION_ROUNDING = 1e-9
"""Tolerance of a quantile's position: a hundred times its float64 rounding error for up to 10^6 values."""


class Interval(NamedTuple):
    """A 95 % confidence interval of a share."""

    low: float
    high: float


class Histogram(NamedTuple):
    """Counts between edges. The last bin includes its upper edge."""

    edges: list[float]
    counts: list[int]


def share_interval(count: int, total: int) -> Interval | None:
    """The 95 % Wilson score interval of a share.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), p = count/n, z = 1.96: Wilson, J. Am.
    Stat. Assoc. 22 (1927) 209-212; recommended for small n by Brown, Cai, DasGupta, Statist. Sci.
    16 (2001) 101-133. Assumes that the pairs are an independent random sample.

    Args:
        count: pairs with the property, 0 to total.
        total: all pairs.
    Returns:
        The interval, within [0, 1]; None if total is 0.
    """
    if total == 0:
        return None
    share, square = count / total, NORMAL_QUANTILE_975**2
    centre = share + square / (2 * total)
    spread = NORMAL_QUANTILE_975 * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    scale = 1 + square / total
    # For count 0 and count = total, the exact ends are 0 and 1; rounding would miss them.
    low = 0.0 if count == 0 else (centre - spread) / scale
    high = 1.0 if count == total else (centre + spread) / scale
    return Interval(low, high)


def quantiles(values: Floats, levels: Sequence[float]) -> list[float] | None:
    """The quantiles of the values that are not NaN, linear between order statistics.

    Definition 7 of Hyndman and Fan, Am. Stat. 50 (1996) 361-365, numpy's default. Unlike numpy, it handles infinite
    values correctly: a quantile is infinite only if an infinite value contributes with a weight above 0.

    Args:
        values: any shape; NaN is excluded, infinities are ordered like numbers.
        levels: numbers from 0 to 1.
    Returns:
        One number per level, in the unit of the values; None if there is no value.
    Cost: linear in the number of values.
    """
    known = values[~np.isnan(values)]
    if known.size == 0:
        return None
    last = known.size - 1
    positions = [level * last for level in levels]
    needed = {min(last, math.floor(position) + step) for position in positions for step in (0, 1)}
    ordered = np.partition(known, sorted(needed))
    return [_between(ordered, position) for position in positions]


def _between(ordered: Floats, position: float) -> float:
    nearest = round(position)
    # 0.07 * 100 is 7.000000000000001. This position must not include the next value, which may be infinite.
    if abs(position - nearest) < POSITION_ROUNDING:
        return float(ordered[nearest])
    below = math.floor(position)
    weight = position - below
    low, high = float(ordered[below]), float(ordered[below + 1])
    # The form low + weight * (high - low) would be NaN for an infinite low.
    return low if low == high else (1.0 - weight) * low + weight * high


def histogram(values: Floats, low: float, high: float, bins: int) -> Histogram:
    """Counts of the values in equal bins over [low, high].

    Args:
        values: any shape; NaN and values outside [low, high] are not counted.
        low: lowest edge, in the unit of the values.
        high: highest edge, above low.
        bins: number of bins, at least 1.
    Returns:
        `bins` + 1 edges and `bins` counts.
    """
    # Weighted ends instead of low + k * width, to make edges such as -0.1 and 0 exact.
    edges = np.array([(low * (bins - k) + high * k) / bins for k in range(bins + 1)])
    counts, _ = np.histogram(values[~np.isnan(values)], edges)
    return Histogram(edges.tolist(), counts.tolist())


def summarise(columns: Mapping[str, Column]) -> dict[str, Any]:
    """The aggregates of a run, as in summary.json.

    Args:
        columns: field name of `PairRecord` to column. `status` is required; a missing field counts as null.
    Returns:
        JSON-able: `rows`; `pairs` (status ok); counts by `status`, and by `reasons` for the other rows;
        `movements`, by name `count`, `rate` over pairs and `interval`; `without_movement`, pairs
        with a null movement; `uncertain`, like a movement; `fields`, by name `count`, `mean`,
        `min`, `p05` to `p95`, `max` over pairs; `cosine_histogram`. None if a number does not
        exist or is infinite; never NaN.
    Precision: float64.  Cost: one sort per field.
    """
    measured = columns["status"] == Status.OK.value
    pairs = int(np.count_nonzero(measured))
    movement = column_of(columns, "movement")[measured]
    movements = {kind.value: int(np.count_nonzero(movement == kind.value)) for kind in Movement}
    uncertain = int(np.count_nonzero(np.equal(column_of(columns, "uncertain")[measured], True)))
    cosine = numbers(columns, "cosine")[measured]
    return {
        "rows": len(measured),
        "pairs": pairs,
        "status": _status_counts(columns["status"]),
        "reasons": _reason_counts(column_of(columns, "reason")[~measured]),
        "movements": {name: share(count, pairs) for name, count in movements.items()},
        "without_movement": pairs - sum(movements.values()),
        "uncertain": share(uncertain, pairs),
        "fields": {name: _field_summary(numbers(columns, name)[measured]) for name in SUMMARISED_FIELDS},
        "cosine_histogram": histogram(cosine, -1.0, 1.0, COSINE_BINS)._asdict(),
    }


def column_of(columns: Mapping[str, Column], name: str) -> Column:
    """The column of that name. A missing column is None in every row."""
    if name in columns:
        return columns[name]
    return np.full(len(columns["status"]), None, dtype=object)


def numbers(columns: Mapping[str, Column], name: str) -> Floats:
    """The column of that name as float64, NaN for null. A missing column is NaN in every row."""
    return np.asarray(column_of(columns, name), dtype=np.float64)


def _status_counts(status: Column) -> dict[str, int]:
    return {kind.value: int(np.count_nonzero(status == kind.value)) for kind in Status}


def _reason_counts(reasons_of_rows: Column) -> dict[str, int]:
    reasons = Counter(reason for reason in reasons_of_rows.tolist() if reason)
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def share(count: int, total: int) -> dict[str, Any]:
    """A count with its share and the share's 95 % interval, JSON-able; both are None if total is 0."""
    interval = share_interval(count, total)
    return {
        "count": count,
        "rate": count / total if total else None,
        "interval": list(interval) if interval else None,
    }


def _field_summary(values: Floats) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    names = ("min", *QUANTILE_LEVELS, "max")
    values_at = quantiles(known, (0.0, *QUANTILE_LEVELS.values(), 1.0)) or [math.nan] * len(names)
    summary = {"mean": mean(known), **dict(zip(names, values_at, strict=True))}
    numbers_or_none = {name: value if math.isfinite(value) else None for name, value in summary.items()}
    return {"count": int(known.size), **numbers_or_none}


def mean(values: Floats) -> float:
    """The mean of the values that are not NaN; NaN if there is none."""
    known = values[~np.isnan(values)]
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.mean(known)) if known.size else math.nan
