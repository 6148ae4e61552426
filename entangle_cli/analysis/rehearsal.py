"""Compares losses that were rehearsed on the same batches, pair by pair, and judges them by rules."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from entangle_cli.analysis.comparison import mean_interval
from entangle_cli.analysis.comparisons import OPERATORS
from entangle_cli.analysis.gate import Outcome, RuleResult
from entangle_cli.analysis.observed_movement import CHANGES, OBSERVED_RATES
from entangle_cli.analysis.rules import COMMAND_LINE, Rule, refuse_unreachable, split_rule, threshold_of
from entangle_cli.analysis.statistics import Interval
from entangle_cli.errors import UsageError
from entangle_cli.records.arrays import Floats


class Difference(NamedTuple):
    """How much more a log-prob, or the margin, changed under one loss than under another; mean over the same pairs."""

    change: str
    """`chosen`, `rejected` or `margin`."""
    pairs: int
    mean: float | None
    """In nats; None without pairs."""
    interval: Interval | None
    """95 %, from Student's t over the pairs; None if there are too few."""

    @property
    def is_beyond_chance(self) -> bool | None:
        """Whether the interval excludes zero; None without one."""
        return None if self.interval is None else self.interval[0] > 0 or self.interval[1] < 0


def paired_differences(first: Floats, second: Floats) -> list[Difference]:
    """Differences of changes, second minus first.

    Args:
        first, second: changes of the same pairs under two losses, [2, pairs], nats.
    """
    difference = second - first
    rows = {"chosen": difference[0], "rejected": difference[1], "margin": difference[0] - difference[1]}
    return [_difference(name, values[np.isfinite(values)]) for name, values in rows.items()]


def _difference(name: str, values: Floats) -> Difference:
    if not len(values):
        return Difference(name, 0, None, None)
    return Difference(name, len(values), float(values.mean()), mean_interval(values))


HELD_OUT = "held_out_"
"""Prefix of metrics over the held-out pairs."""

BOUNDS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(CHANGES, (-math.inf, math.inf)),
    **dict.fromkeys(OBSERVED_RATES, (0.0, 1.0)),
    "cosine_mean": (-1.0, 1.0),
}
"""Metrics of a rehearsal, with their smallest and largest value. Changes are in nats since the start."""


def parse_rehearsal_rule(text: str, origin: str = COMMAND_LINE) -> Rule:
    """Parse a rule on a rehearsal, such as `chosen_falls_rate > 50%` or `held_out_margin_change_mean < 0`.

    Raises:
        UsageError: the form is wrong, the metric is unknown, or the rule can never be true.
    """
    metric, operator, number = split_rule(text)
    base = metric.removeprefix(HELD_OUT)
    if base not in BOUNDS:
        near = difflib.get_close_matches(base, BOUNDS, n=1, cutoff=0.5)
        raise UsageError(
            f"unknown metric {metric!r} in rule {text!r}",
            f"{', '.join(BOUNDS)}; held_out_ in front means the held-out pairs",
            f"did you mean {near[0]!r}?" if near else "write it like 'chosen_falls_rate > 50%'",
            topic="training",
        )
    threshold = threshold_of(text, metric, number, BOUNDS[base], share=base in OBSERVED_RATES)
    refuse_unreachable(text, metric, operator, threshold, BOUNDS[base])
    return Rule(text.strip(), metric, operator, threshold, origin)


def judge_rehearsal(rule: Rule, point: Mapping[str, Any]) -> RuleResult:
    """Judge one loss by its last measurement.

    Args:
        point: the metrics of the probe sets `train` and `held_out`, each None without pairs.
    """
    is_held_out = rule.metric.startswith(HELD_OUT)
    metrics = point["held_out" if is_held_out else "train"] or {}
    observed = metrics.get(rule.metric.removeprefix(HELD_OUT))
    if observed is None:
        reason = "there are no held-out pairs" if is_held_out and not metrics else "no pair defines it"
        return RuleResult(rule, None, Outcome.CANNOT_JUDGE, f"{rule.metric} is not known: {reason}")
    is_true = OPERATORS[rule.operator](observed, rule.threshold)
    outcome = Outcome.FAILED if is_true else Outcome.PASSED
    return RuleResult(rule, observed, outcome, f"{rule.metric} is {observed:.4g}, rule {rule.text}")
