"""The verdict of rules on a run: passed, failed, or cannot judge. A rule that cannot be computed never passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from entangle_cli.analysis.comparisons import OPERATORS
from entangle_cli.analysis.observation import observe
from entangle_cli.analysis.rules import COMMAND_LINE, Rule, is_share, metric_label
from entangle_cli.analysis.statistics import Column
from entangle_cli.records.pair import Status


class Outcome(StrEnum):
    """Outcome of one rule or of all rules together."""

    PASSED = "passed"
    FAILED = "failed"
    CANNOT_JUDGE = "cannot_judge"


@dataclass(frozen=True, slots=True)
class Limits:
    """The minimum that a run needs before it can be judged."""

    min_pairs: int = 1
    """Smallest number of measured pairs."""
    max_skipped: float = 1.0
    """Largest share of rows without a measurement."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """An option that excluded rows or pairs."""

    option: str
    """Its name without dashes, such as `limit`."""
    value: str
    """Its value, or a description of the excluded pairs."""
    origin: str | None = None
    """The file path or variable that set it; None for the command line."""

    @property
    def words(self) -> str:
        """The option as on the command line, and its origin."""
        where = "" if self.origin is None else f" ({self.origin})"
        return f"--{self.option} {self.value}".rstrip() + where


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of the data that a verdict covers."""

    rows_in_data: int | None
    """None if the number is unknown."""
    rows_read: int
    """Number of rows with a record in the run."""
    not_measured: int = 0
    """Number of skipped or undefined pairs or rows among them."""
    reductions: tuple[Reduction, ...] = ()
    set_elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Other options that affect the verdict and were not set on the command line, with their origins."""

    @property
    def rows_unread(self) -> int | None:
        """Number of rows that were never read; None if unknown."""
        return None if self.rows_in_data is None else max(0, self.rows_in_data - self.rows_read)

    @property
    def sentence(self) -> str:
        """The judged part of the data, the options that excluded the rest, and the options that were set elsewhere."""
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
    """The result of one rule."""

    rule: Rule
    observed: float | None
    """The metric, unrounded; None if it cannot be computed."""
    outcome: Outcome
    sentence: str
    """The outcome in words, with the numbers."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of all rules."""

    outcome: Outcome
    sentence: str
    """The reason in words."""
    results: tuple[RuleResult, ...]
    """In the order of the rules."""
    scope: Scope | None = None
    """None if the size of the data is unknown."""
    worst: Sequence[Mapping[str, Any]] = ()
    """The worst judged pairs as rows, if the caller asked for them."""


def judge(
    rules: Sequence[Rule],
    columns: Mapping[str, Column],
    baseline: Mapping[str, Column] | None = None,
    limits: Limits | None = None,
    scope: Scope | None = None,
) -> Verdict:
    """The verdict of the rules on a run.

    A rule fails if its condition is true. It cannot be judged if its metric cannot be computed. The verdict is
    `cannot_judge` if the run has measured pairs but does not meet the limits. Otherwise it is `failed` if a rule
    failed. It is `cannot_judge` if a rule cannot be judged, or if there is no rule or no measured pair. In all other
    cases it is `passed`.

    Args:
        rules: rules from `rules.parse_rule`.
        columns: field name of `PairRecord` to column, as in `statistics`; `status` is required.
        baseline: columns of the baseline run, for rules that end in `_increase`.
        limits: minimum a run needs before it can be judged.
        scope: the part of the data in the columns. Rows that were never read count as not measured.
    Returns:
        The verdict with a result for every rule.
    Cost: one sort per rule on a quantile.
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
    where = "" if rule.origin == COMMAND_LINE else f" ({rule.origin})"
    shown, limit = _told_apart(rule, value)
    sentence = (
        f"{metric_label(rule.metric)}: {shown} ({observation.basis}), {LIMIT_WORDS[rule.operator]} {limit}{where}"
    )
    return RuleResult(rule, value, Outcome.FAILED if broken else Outcome.PASSED, sentence)


LIMIT_WORDS = {
    ">": "limit",
    ">=": "must stay below",
    "<": "at least",
    "<=": "must be above",
    "==": "must not be",
    "!=": "must be",
}
"""How the threshold of a rule reads after what was observed; a rule fails where its condition is true."""


def _told_apart(rule: Rule, value: float) -> tuple[str, str]:
    """A value and its limit, the value with as many digits as it takes to stand on its own side of the limit."""
    scale, unit = (100.0, " %") if is_share(rule.metric) else (1.0, "")
    scaled, limit = scale * value, scale * rule.threshold
    shown = repr(scaled)
    for digits in range(17):
        rounded = f"{scaled:.{digits + 1}f}" if unit else f"{scaled:.{digits + 4}g}"
        if _side(float(rounded), limit) == _side(value, rule.threshold):
            shown = rounded
            break
    return f"{shown}{unit}", f"{limit:.12g}{unit}"


def _side(value: float, limit: float) -> int:
    """Whether a value is above its limit (1), below it (-1) or at it (0)."""
    return (value > limit) - (value < limit)


def _overall(
    results: tuple[RuleResult, ...], pairs: int, rows: int, unread: int | None, limits: Limits
) -> tuple[Outcome, str]:
    failed = sum(result.outcome is Outcome.FAILED for result in results)
    unjudged = sum(result.outcome is Outcome.CANNOT_JUDGE for result in results)
    # Too few pairs allow neither a failure nor a pass.
    if 0 < pairs < limits.min_pairs:
        measured = "1 pair was" if pairs == 1 else f"{pairs} pairs were"
        sentence = f"Only {measured} measured in {rows} rows; the minimum is {limits.min_pairs}."
        return Outcome.CANNOT_JUDGE, sentence
    if pairs and unread is None and limits.max_skipped < 1.0:
        return Outcome.CANNOT_JUDGE, "The data have an unknown number of rows, so the unmeasured share is unknown."
    whole = rows + (unread or 0)
    if pairs and (whole - pairs) / whole > limits.max_skipped:
        sentence = (
            f"{whole - pairs} of {whole} rows were not measured; the largest allowed share is {limits.max_skipped!r}."
        )
        return Outcome.CANNOT_JUDGE, sentence
    of_rules = "of 1 rule" if len(results) == 1 else f"of {len(results)} rules"
    if failed:
        return Outcome.FAILED, f"{failed} {of_rules} failed."
    if pairs == 0:
        return Outcome.CANNOT_JUDGE, f"No pair was measured in {rows} rows."
    if not results:
        return Outcome.CANNOT_JUDGE, "No rule was given."
    if unjudged:
        return Outcome.CANNOT_JUDGE, f"{unjudged} {of_rules} cannot be judged."
    return Outcome.PASSED, f"{len(results)} {of_rules} passed on {pairs} pairs."
