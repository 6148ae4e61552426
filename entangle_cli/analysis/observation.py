"""Computes a rule's metric on a run, or explains why this is impossible."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from entangle_cli.analysis.rules import ENDS, INCREASE, MOVEMENT_RATES, RATES, STATUS_RATES
from entangle_cli.analysis.statistics import (
    Booleans,
    Column,
    Interval,
    column_of,
    mean,
    numbers,
    quantiles,
    share_interval,
)
from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import Movement, Status


class Observation(NamedTuple):
    """A metric's value; None if it cannot be computed."""

    value: float | None
    basis: str
    """The counts behind the value; without a value, the reason."""
    interval: Interval | None = None
    """The 95 % interval of a rate."""


def observe(metric: str, columns: Mapping[str, Column], baseline: Mapping[str, Column] | None) -> Observation:
    """A metric of a run, or its increase over the baseline."""
    base = metric.removesuffix(INCREASE)
    now = _observe(base, columns)
    if base == metric or now.value is None:
        return now
    if baseline is None:
        return Observation(None, "there is no baseline")
    before = _observe(base, baseline)
    if before.value is None:
        return Observation(None, f"in the baseline {before.basis}")
    words = f"from {before.value:.4g} in the baseline to {now.value:.4g}; {now.basis}"
    return Observation(now.value - before.value, words)


def _observe(metric: str, columns: Mapping[str, Column]) -> Observation:
    measured: Booleans = columns["status"] == Status.OK.value
    if metric.endswith(ENDS) and metric.rpartition("_")[0] in RATES:
        return _end_of_interval(_observe(metric.rpartition("_")[0], columns), metric)
    if metric == "pairs":
        return Observation(int(np.count_nonzero(measured)), f"of {len(measured)} rows")
    if metric in STATUS_RATES:
        status = columns["status"] == STATUS_RATES[metric].value
        return _rate(int(np.count_nonzero(status)), len(measured), "rows")
    if metric in MOVEMENT_RATES:
        movement = column_of(columns, "movement")[measured]
        return _movement_rate(movement, MOVEMENT_RATES[metric])
    if metric == "uncertain_rate":
        return _uncertain_rate(column_of(columns, "uncertain")[measured])
    field, _, statistic = metric.rpartition("_")
    return _field_statistic(numbers(columns, field)[measured], statistic)


def _rate(count: int, total: int, noun: str) -> Observation:
    if total == 0:
        return Observation(None, f"there are no {noun}")
    interval = share_interval(count, total)
    return Observation(count / total, f"{count} of {total} {noun}", interval)


def _end_of_interval(rate: Observation, metric: str) -> Observation:
    if rate.interval is None:
        return rate
    end = rate.interval.low if metric.endswith("_low") else rate.interval.high
    return Observation(end, rate.basis, rate.interval)


def _movement_rate(movement: Column, kinds: tuple[Movement, ...]) -> Observation:
    counts = {kind: int(np.count_nonzero(movement == kind.value)) for kind in Movement}
    missing = len(movement) - sum(counts.values())
    if missing:
        return Observation(None, f"{missing} of {len(movement)} measured pairs have no movement")
    return _rate(sum(counts[kind] for kind in kinds), len(movement), "measured pairs")


def _uncertain_rate(uncertain: Column) -> Observation:
    true, false = np.equal(uncertain, True), np.equal(uncertain, False)
    missing = len(uncertain) - int(np.count_nonzero(true | false))
    if missing:
        return Observation(
            None,
            f"{missing} of {len(uncertain)} measured pairs have no uncertainty flag",
        )
    return _rate(int(np.count_nonzero(true)), len(uncertain), "measured pairs")


def _field_statistic(values: Floats, statistic: str) -> Observation:
    known = int(np.count_nonzero(~np.isnan(values)))
    basis = f"over {known} of {len(values)} measured pairs"
    if known == 0:
        return Observation(None, f"none of {len(values)} measured pairs has a value")
    value = mean(values) if statistic == "mean" else _quantile(values, statistic)
    if not math.isfinite(value):
        return Observation(None, f"the value {basis} is not finite")
    return Observation(value, basis)


def _quantile(values: Floats, statistic: str) -> float:
    ends = {"min": 0.0, "median": 0.5, "max": 1.0}
    level = ends[statistic] if statistic in ends else int(statistic[1:]) / 100
    quantile = quantiles(values, [level])
    return quantile[0] if quantile else math.nan
