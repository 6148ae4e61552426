"""Rules settled before all rows are measured: rows in random order, until a confidence sequence lies on one side.

Of a population of N rows of which K have a property, n rows drawn without replacement show s. With a uniform prior on
K the posterior is C(K, s) C(N - K, n - s) / C(N + 1, n + 1), and {K: (N + 1) posterior(K) >= a} holds the true K at all
n at once with probability 1 - a at least: Waudby-Smith and Ramdas, Confidence sequences for sampling without
replacement, NeurIPS 2020, Theorem 2.1. So one may look after every round, and stop when one likes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import lgamma, log

import numpy as np

from entangle_cli.analysis.comparisons import OPERATORS
from entangle_cli.analysis.gate import Outcome
from entangle_cli.analysis.rules import MOVEMENT_RATES, RATES, STATUS_RATES, Rule
from entangle_cli.analysis.statistics import Column, column_of
from entangle_cli.errors import UsageError
from entangle_cli.records.pair import Status

FIRST_ROUND = 64
GROWTH = 1.5
"""Each round brings the rows measured to so many times of what they were."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a metric of the whole data set lies, with the confidence asked for."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RuleDecision:
    """What is known of a rule."""

    rule: Rule
    bounds: Bounds
    outcome: Outcome | None
    """None while the bounds lie on both sides."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is known of all rules after some rows."""

    rules: tuple[RuleDecision, ...]
    num_measured: int
    """Rows drawn, skipped ones included."""
    num_rows: int

    @property
    def outcome(self) -> Outcome | None:
        """Failed when a rule is sure to be broken, passed when all are sure to hold; None before."""
        outcomes = [decision.outcome for decision in self.rules]
        if Outcome.FAILED in outcomes:
            return Outcome.FAILED
        if self.num_measured == self.num_rows and None in outcomes:
            return Outcome.CANNOT_JUDGE  # a rate of pairs of which there are none
        return Outcome.PASSED if all(outcome is Outcome.PASSED for outcome in outcomes) else None


def check_rules(rules: Sequence[Rule]) -> None:
    """Refuse rules that counts cannot settle.

    Raises:
        UsageError: there is none, or one on something else than a rate or the number of pairs.
    """
    if not rules:
        raise UsageError("--until-decided without a rule", "at least one --fail-if", "add --fail-if or leave it out")
    for rule in rules:
        if rule.metric not in (*RATES, "pairs"):
            raise UsageError(
                f"--until-decided with --fail-if {rule.text!r}",
                f"rules on pairs or one of {', '.join(RATES)}",
                "judge that rule on a full scan",
            )


def round_sizes(num_rows: int) -> list[int]:
    """Rows measured in all after each round; the last is all of them."""
    sizes = [min(FIRST_ROUND, num_rows)]
    while sizes[-1] < num_rows:
        sizes.append(min(num_rows, int(GROWTH * sizes[-1])))
    return sizes


def decide(rules: Sequence[Rule], columns: Mapping[str, Column], num_rows: int, confidence: float) -> Decision:
    """What rows drawn at random without replacement say of the whole data set.

    The chance of ever naming a wrong outcome, for any rule and at whatever number of rows one looks, is at most
    1 - confidence: it is divided among the rules, and for a rate between its two counts.

    Args:
        columns: of the rows drawn; see `gate.judge`.
        num_rows: N.
    """
    share = (1.0 - confidence) / len(rules)
    drawn = len(columns["status"])
    decisions = []
    for rule in rules:
        bounds = _bounds(rule.metric, columns, num_rows, share)
        decisions.append(RuleDecision(rule, bounds, _outcome(rule, bounds)))
    return Decision(tuple(decisions), drawn, num_rows)


def _bounds(metric: str, columns: Mapping[str, Column], num_rows: int, error: float) -> Bounds:
    measured = columns["status"] == Status.OK.value
    drawn = len(measured)

    def count_bounds(count: int, error: float) -> tuple[int, int]:
        return total_bounds(count, drawn, num_rows, error)

    if metric == "pairs":
        low, high = count_bounds(int(np.count_nonzero(measured)), error)
        return Bounds(low, high)
    if metric in STATUS_RATES:
        low, high = count_bounds(int(np.count_nonzero(columns["status"] == STATUS_RATES[metric].value)), error)
        return Bounds(low / num_rows, high / num_rows)
    if metric == "uncertain_rate":
        has = np.equal(column_of(columns, "uncertain"), True).astype(bool) & measured
    else:
        names = [kind.value for kind in MOVEMENT_RATES[metric]]
        has = np.isin(column_of(columns, "movement").astype(str), names) & measured
    low, high = count_bounds(int(np.count_nonzero(has)), error / 2)
    fewest, most = count_bounds(int(np.count_nonzero(measured)), error / 2)
    # The property is one of measured pairs alone.
    return Bounds(low / most if most else 0.0, min(1.0, high / fewest) if fewest else 1.0)


def total_bounds(count: int, drawn: int, total: int, error: float) -> tuple[int, int]:
    """Fewest and most rows of a population that may have a property, given how many of those drawn have it.

    Args:
        error: the chance that the truth is ever outside, at whatever `drawn` one looks.
    """
    lowest, highest = count, total - (drawn - count)
    limit = log(error) - log(total + 1) + _log_choose(total + 1, drawn + 1)

    def is_inside(number: int) -> bool:
        return _log_choose(number, count) + _log_choose(total - number, drawn - count) >= limit

    mode = min(highest, max(lowest, round((total + 1) * count / drawn) if drawn else lowest))
    low = _first(lowest, mode, is_inside)
    high = total - _first(total - highest, total - mode, lambda mirrored: is_inside(total - mirrored))
    return low, high


def _first(low: int, high: int, is_inside: Callable[[int], bool]) -> int:
    """The smallest number from which on it holds, which it does at `high` and, up to there, never ceases to."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_inside(middle) else (middle + 1, high)
    return low


def _log_choose(total: int, count: int) -> float:
    return lgamma(total + 1) - lgamma(count + 1) - lgamma(total - count + 1)


def _outcome(rule: Rule, bounds: Bounds) -> Outcome | None:
    """Whether a rule is broken wherever within the bounds the metric lies."""
    broken = OPERATORS[rule.operator]
    if rule.operator in ("==", "!="):
        if bounds.low == bounds.high:
            return Outcome.FAILED if broken(bounds.low, rule.threshold) else Outcome.PASSED
        if bounds.low <= rule.threshold <= bounds.high:
            return None
        return Outcome.PASSED if rule.operator == "==" else Outcome.FAILED
    at_ends = {broken(bounds.low, rule.threshold), broken(bounds.high, rule.threshold)}
    if len(at_ends) == 2:
        return None
    return Outcome.FAILED if at_ends.pop() else Outcome.PASSED
