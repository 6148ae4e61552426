"""Rules over a run and their verdict: passed, failed, or cannot judge. Pure: prints nothing.

A rule is a condition that fails the gate where it is true: `both_fall_rate > 0.1`. What cannot be
computed is never a pass. A metric may end in `_low` or `_high` (the ends of a rate's 95 % interval, so that a small
sample does not flip from run to run) or in `_increase` (over a baseline).
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np

from entangle_cli.analysis.statistics import (
    Booleans,
    Column,
    Floats,
    Interval,
    column_of,
    mean,
    numbers,
    quantiles,
    share_interval,
)
from entangle_cli.errors import UsageError
from entangle_cli.records import Movement, Status

RULE_FIELDS = (
    "cosine",
    "norm_ratio",
    "inner_product",
    "chosen_condition",
    "rejected_condition",
    "chosen_delta",
    "rejected_delta",
    "slack",
    "chosen_log_prob",
    "rejected_log_prob",
    "chosen_grad_norm",
    "rejected_grad_norm",
    "chosen_tokens",
    "rejected_tokens",
    "prompt_tokens",
    "chosen_ref_log_prob",
    "rejected_ref_log_prob",
    "ches",
    "length_normalised_ches",
    "head_inner_product",
    "unshared_cosine",
    "edit_distance",
    "shared_prefix_tokens",
    "shared_suffix_tokens",
)
"""Fields of `PairRecord` that rules may name with a statistic."""
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
MOVEMENT_RATES: dict[str, tuple[Movement, ...]] = {
    **{f"{kind.value}_rate": (kind,) for kind in Movement},
    "chosen_falls_rate": (Movement.BOTH_FALL, Movement.REVERSED),
    "rejected_rises_rate": (Movement.BOTH_RISE, Movement.REVERSED),
}
"""Rates over the measured pairs, and the movements that each of them counts."""
STATUS_RATES = {"skipped_rate": Status.SKIPPED, "undefined_rate": Status.UNDEFINED}
"""Rates over all rows."""
RATES = (*MOVEMENT_RATES, "uncertain_rate", *STATUS_RATES)
ENDS = ("_low", "_high")
"""Of a rate's interval."""
INCREASE = "_increase"
EXAMPLE = '"both_fall_rate > 0.1"'

_RULE = re.compile(r"\s*(?P<metric>\w+)\s*(?P<operator>[<>=!]+)\s*(?P<threshold>\S+)\s*", re.ASCII)
_STATISTIC = re.compile(r"mean|min|max|median|p(?!00)\d\d", re.ASCII)


class Outcome(str, Enum):
    """What a rule, or all of them together, came to."""

    PASSED = "passed"
    FAILED = "failed"
    CANNOT_JUDGE = "cannot_judge"


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition that fails the gate where it is true."""

    text: str
    """As the user wrote it."""
    metric: str
    """A rate, `pairs`, or a field and a statistic joined by an underscore."""
    operator: str
    """A key of `OPERATORS`."""
    threshold: float
    """In the metric's unit; compared unrounded."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run is no sample to judge by."""

    min_pairs: int = 1
    """Measured pairs needed."""
    max_skipped: float = 1.0
    """Largest share of rows that may be skipped or undefined."""


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


def parse_rule(text: str) -> Rule:
    """The rule that a text such as `both_fall_rate > 0.1` states.

    Args:
        text: metric, operator, number; blanks between them do not matter.
    Returns:
        The rule.
    Raises:
        UsageError: the text is not of that form, the metric is unknown, the number is not finite,
            or a rate is compared with a number outside [0, 1].
    """
    match = _RULE.fullmatch(text)
    if match is None or match["operator"] not in OPERATORS:
        raise UsageError(
            f"rule {text!r}",
            f"METRIC OPERATOR NUMBER, the operator one of {', '.join(OPERATORS)}",
            f"write it like {EXAMPLE}; the gate fails where the condition is true.",
        )
    _check_metric(text, match["metric"])
    threshold = _threshold(text, match["metric"], match["threshold"])
    return Rule(text.strip(), match["metric"], match["operator"], threshold)


def judge(
    rules: Sequence[Rule],
    columns: Mapping[str, Column],
    baseline: Mapping[str, Column] | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """The verdict of the rules on a run.

    A rule fails where its condition is true and cannot be judged where its metric does not exist.
    The verdict is `failed` where a rule failed; otherwise `cannot_judge` where a rule cannot be
    judged, where the limits are not met, or where there is no rule; otherwise `passed`.

    Args:
        rules: from `parse_rule`.
        columns: field name of `PairRecord` to column, as in `statistics`; `status` is needed.
        baseline: the columns of the run that increases are over.
    Returns:
        The verdict with a result for every rule.
    Cost: one sort for every rule on a quantile.
    """
    measured = columns["status"] == Status.OK.value
    results = tuple(_judge_rule(rule, columns, baseline) for rule in rules)
    outcome, sentence = _overall(results, int(np.count_nonzero(measured)), len(measured), limits or Limits())
    return Verdict(outcome, sentence, results)


def is_relative(rule: Rule) -> bool:
    """Whether a rule needs a baseline."""
    return rule.metric.endswith(INCREASE)


class _Observation(NamedTuple):
    """A metric's value, or None and why there is none."""

    value: float | None
    basis: str
    """What the value rests on; where there is no value, why not."""
    interval: Interval | None = None
    """Of a rate, 95 %."""


def _check_metric(text: str, metric: str) -> None:
    metric = metric.removesuffix(INCREASE)
    if metric.endswith(ENDS) and metric.rpartition("_")[0] in RATES:
        return
    field, _, statistic = metric.rpartition("_")
    if metric in RATES or metric == "pairs":
        return
    if field in RULE_FIELDS and _STATISTIC.fullmatch(statistic):
        return
    if field in RULE_FIELDS:
        known = [f"{field}_{name}" for name in ("mean", "min", "max", "median", "p05")]
    else:
        known = ["pairs", *RATES, *(f"{name}_median" for name in RULE_FIELDS)]
    near = difflib.get_close_matches(metric, known, n=1, cutoff=0.5)
    raise UsageError(
        f"unknown metric {metric!r} in rule {text!r}",
        f"pairs, {', '.join(RATES)}, or FIELD_STATISTIC with a FIELD of {', '.join(RULE_FIELDS)} "
        "and a STATISTIC of mean, min, max, median, p01 to p99; a rate's interval ends with _low and _high; all with "
        "_increase over a baseline",
        f"did you mean {near[0]!r}?" if near else f"write it like {EXAMPLE}.",
    )


def _threshold(text: str, metric: str, number: str) -> float:
    try:
        threshold = float(number)
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold):
        raise UsageError(f"{number!r} in rule {text!r}", "a finite number", f"write it like {EXAMPLE}.")
    base = metric.removesuffix(INCREASE)
    is_share = base in RATES or (base.endswith(ENDS) and base.rpartition("_")[0] in RATES)
    lowest = -1.0 if base != metric else 0.0
    if is_share and not lowest <= threshold <= 1.0:
        raise UsageError(
            f"{number} in rule {text!r}",
            f"a number from {lowest:g} to 1, as {metric} is a share",
            "write 10 % as 0.1.",
        )
    return threshold


def _judge_rule(rule: Rule, columns: Mapping[str, Column], baseline: Mapping[str, Column] | None) -> RuleResult:
    observation = _observe_over(rule.metric, columns, baseline)
    value = observation.value
    if value is None:
        sentence = f"{rule.metric} cannot be computed: {observation.basis}."
        return RuleResult(rule, None, Outcome.CANNOT_JUDGE, sentence)
    broken = OPERATORS[rule.operator](value, rule.threshold)
    # repr, not a rounded number: 0.1000001 > 0.1 must not read as 0.1 > 0.1.
    interval = observation.interval
    within = "" if interval is None else f", 95 % interval {interval.low:.4f} to {interval.high:.4f}"
    sentence = (
        f"{rule.metric} is {value!r} ({observation.basis}){within}; "
        f"the rule fails where it is {rule.operator} {rule.threshold!r}."
    )
    return RuleResult(rule, value, Outcome.FAILED if broken else Outcome.PASSED, sentence)


def _observe_over(metric: str, columns: Mapping[str, Column], baseline: Mapping[str, Column] | None) -> _Observation:
    """A metric of a run, or its increase over the baseline."""
    base = metric.removesuffix(INCREASE)
    now = _observe(base, columns)
    if base == metric or now.value is None:
        return now
    if baseline is None:
        return _Observation(None, "there is no baseline")
    before = _observe(base, baseline)
    if before.value is None:
        return _Observation(None, f"in the baseline {before.basis}")
    return _Observation(now.value - before.value, f"{now.value!r}, {now.basis}; {before.value!r} in the baseline")


def _observe(metric: str, columns: Mapping[str, Column]) -> _Observation:
    measured: Booleans = columns["status"] == Status.OK.value
    if metric.endswith(ENDS) and metric.rpartition("_")[0] in RATES:
        return _end_of_interval(_observe(metric.rpartition("_")[0], columns), metric)
    if metric == "pairs":
        return _Observation(int(np.count_nonzero(measured)), f"of {len(measured)} rows")
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


def _rate(count: int, total: int, noun: str) -> _Observation:
    if total == 0:
        return _Observation(None, f"there are no {noun}")
    interval = share_interval(count, total)
    return _Observation(count / total, f"{count} of {total} {noun}", interval)


def _end_of_interval(rate: _Observation, metric: str) -> _Observation:
    if rate.interval is None:
        return rate
    end = rate.interval.low if metric.endswith("_low") else rate.interval.high
    return _Observation(end, f"the 95 % interval's end; {rate.basis}", rate.interval)


def _movement_rate(movement: Column, kinds: tuple[Movement, ...]) -> _Observation:
    counts = {kind: int(np.count_nonzero(movement == kind.value)) for kind in Movement}
    missing = len(movement) - sum(counts.values())
    if missing:
        return _Observation(None, f"{missing} of {len(movement)} measured pairs have no movement")
    return _rate(sum(counts[kind] for kind in kinds), len(movement), "measured pairs")


def _uncertain_rate(uncertain: Column) -> _Observation:
    true, false = np.equal(uncertain, True), np.equal(uncertain, False)
    missing = len(uncertain) - int(np.count_nonzero(true | false))
    if missing:
        return _Observation(
            None,
            f"{missing} of {len(uncertain)} measured pairs do not say whether they are uncertain",
        )
    return _rate(int(np.count_nonzero(true)), len(uncertain), "measured pairs")


def _field_statistic(values: Floats, statistic: str) -> _Observation:
    known = int(np.count_nonzero(~np.isnan(values)))
    basis = f"over {known} of {len(values)} measured pairs"
    if known == 0:
        return _Observation(None, f"none of {len(values)} measured pairs has the field")
    value = mean(values) if statistic == "mean" else _quantile(values, statistic)
    if not math.isfinite(value):
        return _Observation(None, f"it is not finite {basis}")
    return _Observation(value, basis)


def _quantile(values: Floats, statistic: str) -> float:
    ends = {"min": 0.0, "median": 0.5, "max": 1.0}
    level = ends[statistic] if statistic in ends else int(statistic[1:]) / 100
    found = quantiles(values, [level])
    return found[0] if found else math.nan


def _overall(results: tuple[RuleResult, ...], pairs: int, rows: int, limits: Limits) -> tuple[Outcome, str]:
    failed = sum(result.outcome is Outcome.FAILED for result in results)
    unjudged = sum(result.outcome is Outcome.CANNOT_JUDGE for result in results)
    # A breach on too few pairs is no breach, as little as a pass on them is one.
    if 0 < pairs < limits.min_pairs:
        sentence = f"Only {pairs} pairs were measured in {rows} rows; {limits.min_pairs} are needed."
        return Outcome.CANNOT_JUDGE, sentence
    if pairs and (rows - pairs) / rows > limits.max_skipped:
        sentence = f"{rows - pairs} of {rows} rows were not measured, more than a share of {limits.max_skipped!r}."
        return Outcome.CANNOT_JUDGE, sentence
    if failed:
        return Outcome.FAILED, f"{failed} of {len(results)} rules failed."
    if pairs == 0:
        return Outcome.CANNOT_JUDGE, f"No pair was measured in {rows} rows."
    if not results:
        return Outcome.CANNOT_JUDGE, "There is no rule to judge by."
    if unjudged:
        return Outcome.CANNOT_JUDGE, f"{unjudged} of {len(results)} rules cannot be judged."
    return Outcome.PASSED, f"All {len(results)} rules passed on {pairs} pairs."
