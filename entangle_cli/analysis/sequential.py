"""Decides rules before all rows are measured, from rows in random order and a confidence sequence.

In a population of N rows, K rows have a property. Of n rows drawn without replacement, s have it. With a uniform prior
on K, the posterior is C(K, s) C(N - K, n - s) / C(N + 1, n + 1). The set {K: (N + 1) posterior(K) >= a} contains the
true K for all n at once with probability at least 1 - a: Waudby-Smith and Ramdas, Confidence sequences for sampling
without replacement, NeurIPS 2020, Theorem 2.1. Checking after every round and stopping at any time are therefore valid.
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
"""Factor by which every round increases the number of measured rows."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of a metric on the whole data set, at the requested confidence."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RuleDecision:
    """The decision on one rule."""

    rule: Rule
    bounds: Bounds
    outcome: Outcome | None
    """None while the bounds allow both outcomes."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on all rules after some rows."""

    rules: tuple[RuleDecision, ...]
    num_measured: int
    """Number of drawn rows, including skipped ones."""
    num_rows: int

    @property
    def outcome(self) -> Outcome | None:
        """Failed if a rule certainly fails, passed if all rules certainly pass, None if undecided."""
        outcomes = [decision.outcome for decision in self.rules]
        if Outcome.FAILED in outcomes:
            return Outcome.FAILED
        if self.num_measured == self.num_rows and None in outcomes:
            return Outcome.CANNOT_JUDGE  # a rate over pairs, but there are no pairs
        return Outcome.PASSED if all(outcome is Outcome.PASSED for outcome in outcomes) else None


def check_rules(rules: Sequence[Rule]) -> None:
    """Check that counts can decide the rules.

    Raises:
        UsageError: there is no rule, or a rule's metric is neither a rate nor `pairs`.
    """
    if not rules:
        raise UsageError(
            "--until-decided without a rule", "at least one --fail-if", "add --fail-if, or remove --until-decided"
        )
    for rule in rules:
        if rule.metric not in (*RATES, "pairs"):
            raise UsageError(
                f"--until-decided with --fail-if {rule.text!r}",
                f"rules on pairs or one of {', '.join(RATES)}",
                "remove --until-decided to judge this rule on a full scan",
            )


def round_sizes(num_rows: int) -> list[int]:
    """Total number of measured rows after every round. The last number is `num_rows`."""
    sizes = [min(FIRST_ROUND, num_rows)]
    while sizes[-1] < num_rows:
        sizes.append(min(num_rows, int(GROWTH * sizes[-1])))
    return sizes


def decide(rules: Sequence[Rule], columns: Mapping[str, Column], num_rows: int, confidence: float) -> Decision:
    """Decide rules on the whole data set from rows drawn at random without replacement.

    The probability of any wrong outcome, over all rules and all checks, is at most 1 - confidence. It is divided among
    the rules, and for a rate among its two counts.

    Args:
        columns: columns of the drawn rows; see `gate.judge`.
        num_rows: number of rows in the data set, N.
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
        is_counted = np.equal(column_of(columns, "uncertain"), True).astype(bool) & measured
    else:
        names = [kind.value for kind in MOVEMENT_RATES[metric]]
        is_counted = np.isin(column_of(columns, "movement").astype(str), names) & measured
    low, high = count_bounds(int(np.count_nonzero(is_counted)), error / 2)
    fewest, most = count_bounds(int(np.count_nonzero(measured)), error / 2)
    # Rate = counted pairs / measured pairs; both counts have bounds.
    return Bounds(low / most if most else 0.0, min(1.0, high / fewest) if fewest else 1.0)


def total_bounds(count: int, drawn: int, total: int, error: float) -> tuple[int, int]:
    """Bounds of the number of rows with a property in a population.

    Args:
        count: number of drawn rows with the property.
        drawn: number of drawn rows.
        total: number of rows in the population.
        error: upper bound of the probability that the true number is outside the bounds at any check.
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
    """The smallest number in [low, high] for which `is_inside` is true; it stays true up to `high`."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_inside(middle) else (middle + 1, high)
    return low


def _log_choose(total: int, count: int) -> float:
    return lgamma(total + 1) - lgamma(count + 1) - lgamma(total - count + 1)


def _outcome(rule: Rule, bounds: Bounds) -> Outcome | None:
    """The outcome of a rule for every value within the bounds; None if it depends on the value."""
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
