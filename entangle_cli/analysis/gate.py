"""The verdict of rules on a run: passed, failed, or cannot judge. What cannot be computed is never a pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from entangle_cli.analysis.comparisons import OPERATORS
from entangle_cli.analysis.observation import observe
from entangle_cli.analysis.rules import COMMAND_LINE, Rule
from entangle_cli.analysis.statistics import Column
from entangle_cli.records.pair import Status


class Outcome(StrEnum):
    """What a rule, or all of them together, came to."""

    PASSED = "passed"
    FAILED = "failed"
    CANNOT_JUDGE = "cannot_judge"


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run is no sample to judge by."""

    min_pairs: int = 1
    """Measured pairs needed."""
    max_skipped: float = 1.0
    """Largest share of rows that may be skipped or undefined."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """What left rows or pairs of the data out."""

    option: str
    """Without dashes, such as `limit`."""
    value: str
    """Its value, or what it left out, in words."""
    origin: str | None = None
    """Where it was set: a file's path or a variable's name; None for the command line."""

    @property
    def words(self) -> str:
        """As a user would write it, and where it was set."""
        where = "" if self.origin is None else f" ({self.origin})"
        return f"--{self.option} {self.value}".rstrip() + where


@dataclass(frozen=True, slots=True)
class Scope:
    """Which part of the data a verdict is on."""

    rows_in_data: int | None
    """None where nobody counted them."""
    rows_read: int
    """Of which the run holds pairs or reasons."""
    not_measured: int = 0
    """Pairs or rows among them that were skipped or are undefined."""
    reductions: tuple[Reduction, ...] = ()
    set_elsewhere: Mapping[str, str] = field(default_factory=dict)
    """WorkerRank options that decide the verdict and were not on a command line, to where they were set."""

    @property
    def rows_unread(self) -> int | None:
        """Rows that were never looked at."""
        return None if self.rows_in_data is None else max(0, self.rows_in_data - self.rows_read)

    @property
    def sentence(self) -> str:
        """How much was judged, what left out the rest, and what was set elsewhere."""
        whole = "an unknown number of" if self.rows_in_data is None else f"{self.rows_in_data:,}"
        words = f"{self.rows_read:,} of {whole} rows of the data"
        if self.not_measured:
            words += f", {self.not_measured:,} of them without a measurement"
        if self.reductions:
            words += "; " + ", ".join(reduction.words for reduction in self.reductions)
        if self.set_elsewhere:
            words += "; set elsewhere: " + ", ".join(f"{name} ({at})" for name, at in self.set_elsewhere.items())
        return f"{words}."


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What one rule came to."""

    rule: Rule
    observed: float | None
    """The metric, unrounded; None where it could not be computed."""
    outcome: Outcome
    sentence: str
    """The outcome in words, with the numbers."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all rules came to."""

    outcome: Outcome
    sentence: str
    """Why, in words."""
    results: tuple[RuleResult, ...]
    """In the order of the rules."""
    scope: Scope | None = None
    """None where the whole is not known."""
    worst: Sequence[Mapping[str, Any]] = ()
    """The judged pairs to look at first, as rows, where the caller asked for them."""


def judge(
    rules: Sequence[Rule],
    columns: Mapping[str, Column],
    baseline: Mapping[str, Column] | None = None,
    limits: Limits | None = None,
    scope: Scope | None = None,
) -> Verdict:
    """The verdict of the rules on a run.

    A rule fails where its condition is true and cannot be judged where its metric does not exist.
    The verdict is `failed` where a rule failed; otherwise `cannot_judge` where a rule cannot be
    judged, where the limits are not met, or where there is no rule; otherwise `passed`.

    Args:
        rules: from `rules.parse_rule`.
        columns: field name of `PairRecord` to column, as in `statistics`; `status` is needed.
        baseline: the columns of the run that increases are over.
        scope: which part of the data the columns are; rows that were never read count as not measured.
    Returns:
        The verdict with a result for every rule.
    Cost: one sort for every rule on a quantile.
    """
    measured = columns["status"] == Status.OK.value
    results = tuple(_judge_rule(rule, columns, baseline) for rule in rules)
    unread = 0 if scope is None else scope.rows_unread
    outcome, sentence = _overall(results, int(np.count_nonzero(measured)), len(measured), unread, limits or Limits())
    return Verdict(outcome, sentence, results, scope)


def _judge_rule(rule: Rule, columns: Mapping[str, Column], baseline: Mapping[str, Column] | None) -> RuleResult:
    observation = observe(rule.metric, columns, baseline)
    value = observation.value
    if value is None:
        sentence = f"{rule.metric} cannot be computed: {observation.basis}."
        return RuleResult(rule, None, Outcome.CANNOT_JUDGE, sentence)
    broken = OPERATORS[rule.operator](value, rule.threshold)
    # repr, not a rounded number: 0.1000001 > 0.1 must not read as 0.1 > 0.1.
    interval = observation.interval
    where = "" if rule.origin == COMMAND_LINE else f" ({rule.origin})"
    within = "" if interval is None else f", 95 % interval {interval.low:.4f} to {interval.high:.4f}"
    sentence = (
        f"{rule.metric} is {value!r} ({observation.basis}){within}; "
        f"the rule fails where it is {rule.operator} {rule.threshold!r}{where}."
    )
    return RuleResult(rule, value, Outcome.FAILED if broken else Outcome.PASSED, sentence)


def _overall(
    results: tuple[RuleResult, ...], pairs: int, rows: int, unread: int | None, limits: Limits
) -> tuple[Outcome, str]:
    failed = sum(result.outcome is Outcome.FAILED for result in results)
    unjudged = sum(result.outcome is Outcome.CANNOT_JUDGE for result in results)
    # A breach on too few pairs is no breach, as little as a pass on them is one.
    if 0 < pairs < limits.min_pairs:
        sentence = f"Only {pairs} pairs were measured in {rows} rows; {limits.min_pairs} are needed."
        return Outcome.CANNOT_JUDGE, sentence
    if pairs and unread is None and limits.max_skipped < 1.0:
        return Outcome.CANNOT_JUDGE, "The number of rows in the data is unknown, and with it the share not measured."
    whole = rows + (unread or 0)
    if pairs and (whole - pairs) / whole > limits.max_skipped:
        sentence = f"{whole - pairs} of {whole} rows were not measured, more than a share of {limits.max_skipped!r}."
        return Outcome.CANNOT_JUDGE, sentence
    of_rules = "of 1 rule" if len(results) == 1 else f"of {len(results)} rules"
    if failed:
        return Outcome.FAILED, f"{failed} {of_rules} failed."
    if pairs == 0:
        return Outcome.CANNOT_JUDGE, f"No pair was measured in {rows} rows."
    if not results:
        return Outcome.CANNOT_JUDGE, "There is no rule to judge by."
    if unjudged:
        return Outcome.CANNOT_JUDGE, f"{unjudged} {of_rules} cannot be judged."
    return Outcome.PASSED, f"{len(results)} {of_rules} passed on {pairs} pairs."
