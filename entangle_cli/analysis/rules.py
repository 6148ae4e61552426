"""Gate rules. A rule such as `both_fall_rate > 0.1` fails the gate if it is true.

A metric may end in `_low` or `_high`, the ends of a rate's 95 % interval. They reduce chance results on small samples.
It may also end in `_increase`, the change over a baseline.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

from entangle_cli.analysis.comparisons import OPERATORS
from entangle_cli.errors import UsageError
from entangle_cli.records.pair import PAIR_FIELDS, PLACES, Kind, Movement, Status, field_names

RULE_FIELDS = tuple(name for name in field_names(Kind.COUNT, Kind.NUMBER) if name not in PLACES)
"""Fields of `PairRecord` that rules can use with a statistic."""
MOVEMENT_RATES: dict[str, tuple[Movement, ...]] = {
    **{f"{kind.value}_rate": (kind,) for kind in Movement},
    "chosen_falls_rate": (Movement.BOTH_FALL, Movement.REVERSED),
    "rejected_rises_rate": (Movement.BOTH_RISE, Movement.REVERSED),
}
"""Rates over the measured pairs, and the movements that they count."""
STATUS_RATES = {"skipped_rate": Status.SKIPPED, "undefined_rate": Status.UNDEFINED}
"""Rates over all rows."""
RATES = (*MOVEMENT_RATES, "uncertain_rate", *STATUS_RATES)
METRICS = {
    **{
        name: f"share of the measured pairs whose movement is {' or '.join(kind.value for kind in kinds)}"
        for name, kinds in MOVEMENT_RATES.items()
    },
    "uncertain_rate": "share of the measured pairs whose movement is uncertain",
    **{name: f"share of all rows that are {status.value}" for name, status in STATUS_RATES.items()},
    "pairs": "number of measured pairs",
}
"""Meaning of every metric that is not the statistic of a field."""
ENDS = ("_low", "_high")
"""Suffixes for the ends of a rate's interval."""
INCREASE = "_increase"
EXAMPLE = '"both_fall_rate > 0.1"'

COMMAND_LINE = "the command line"

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_RULE = re.compile(r"\s*(?P<metric>\w+)\s*(?P<operator>[<>=!]+)\s*(?P<threshold>\S+?(?:\s*%)?)\s*", re.ASCII)
_STATISTIC = re.compile(r"mean|min|max|median|p(?!00)\d\d", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition that fails the gate if it is true."""

    text: str
    """The rule as the user wrote it."""
    metric: str
    """A rate, `pairs`, or a field and a statistic joined by an underscore."""
    operator: str
    """A key of `OPERATORS`."""
    threshold: float
    """In the metric's unit; compared unrounded."""
    origin: str = COMMAND_LINE
    """Source of the rule: the command line, a file's path or a variable's name."""


def parse_rule(text: str, origin: str = COMMAND_LINE) -> Rule:
    """Parse a rule such as `both_fall_rate > 0.1`.

    Args:
        text: metric, operator and number; spaces between them are optional.
        origin: source of the rule.
    Raises:
        UsageError: the text does not have this form, the metric is unknown, the number is not a finite decimal number
            in ASCII digits, or the condition can never be true.
    """
    metric, operator, number = split_rule(text)
    _check_metric(text, metric)
    bounds = _range(metric)
    threshold = threshold_of(text, metric, number, bounds, share=is_share(metric))
    refuse_unreachable(text, metric, operator, threshold, bounds)
    return Rule(text.strip(), metric, operator, threshold, origin)


def split_rule(text: str) -> tuple[str, str, str]:
    """Metric, operator and number of a rule.

    Raises:
        UsageError: the text does not have this form.
    """
    match = _RULE.fullmatch(text)
    if match is None or match["operator"] not in OPERATORS:
        raise UsageError(
            f"rule {text!r}",
            f"METRIC OPERATOR NUMBER, the operator one of {', '.join(OPERATORS)}",
            f"write it like {EXAMPLE}; the gate fails if the condition is true.",
            topic="ci",
        )
    return match["metric"], match["operator"], match["threshold"]


def is_relative(rule: Rule) -> bool:
    """Whether a rule needs a baseline."""
    return rule.metric.endswith(INCREASE)


def metric_meaning(metric: str) -> str | None:
    """The meaning of a metric; None for an unknown metric."""
    try:
        _check_metric(metric, metric)
    except UsageError:
        return None
    change = "change over the baseline of the " if metric.endswith(INCREASE) else ""
    base = metric.removesuffix(INCREASE)
    if base in METRICS:
        return change + METRICS[base]
    name, _, last = base.rpartition("_")
    if f"_{last}" in ENDS and name in METRICS:
        return f"{change}{'lower' if last == 'low' else 'upper'} end of the 95 % interval of the {METRICS[name]}"
    statistic = f"{int(last[1:])}th percentile" if last.startswith("p") and last[1:].isdigit() else last
    return f"{change}{statistic} of {name} over the measured pairs: {PAIR_FIELDS[name].meaning}"


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
        "and a STATISTIC of mean, min, max, median, p01 to p99; add _low or _high to a rate for an end of its "
        "interval; add _increase to any metric for its change over a baseline",
        f"did you mean {near[0]!r}?" if near else f"write it like {EXAMPLE}.",
        topic="ci",
    )


def threshold_of(text: str, metric: str, number: str, bounds: tuple[float, float], *, share: bool) -> float:
    """The number of a rule.

    Args:
        bounds: smallest and largest possible value of the metric.
        share: whether the metric is a share, which may be written as a percentage.
    Raises:
        UsageError: not a finite number, or outside the bounds of a share.
    """
    digits = number.removesuffix("%").rstrip() if share else number
    threshold = float(digits) / (1 if digits == number else 100) if _NUMBER.fullmatch(digits) else math.nan
    if not math.isfinite(threshold):
        raise UsageError(
            f"{number!r} in rule {text!r}",
            "a finite number in the digits 0 to 9; a percentage for a rate only",
            f"write it like {EXAMPLE}.",
            topic="ci",
        )
    low, high = bounds
    if share and not low <= threshold <= high:
        raise UsageError(
            f"{number} in rule {text!r}",
            f"a number from {low:g} to {high:g} or a percentage, because {metric} is a share",
            "write 10 % as 0.1 or 10%.",
            topic="ci",
        )
    return threshold


def metric_label(metric: str) -> str:
    """A metric as a person reads it: `both fall` for `both_fall_rate`; other metrics by their names."""
    base = metric.removesuffix(INCREASE)
    end = next((end for end in ENDS if base.endswith(end) and base.removesuffix(end) in RATES), "")
    name = base.removesuffix(end)
    label = name.removesuffix("_rate").replace("_", " ") if name in RATES else name
    words = f"{label}, {'lower' if end == '_low' else 'upper'} end of the 95 % interval" if end else label
    return f"increase of {words}" if base != metric else words


def is_share(metric: str) -> bool:
    """Whether a metric is a share of pairs or rows, or the end of its interval, or the increase of one."""
    base = metric.removesuffix(INCREASE)
    return base in RATES or (base.endswith(ENDS) and base.rpartition("_")[0] in RATES)


RANGES = {
    "cosine": (-1.0, 1.0),
    "unshared_cosine": (-1.0, 1.0),
    **{f"{side}_{kind}log_prob": (-math.inf, 0.0) for side in ("chosen", "rejected") for kind in ("", "ref_")},
    **dict.fromkeys(
        (
            "norm_ratio",
            "chosen_grad_norm",
            "rejected_grad_norm",
            "chosen_tokens",
            "rejected_tokens",
            "prompt_tokens",
            "edit_distance",
            "shared_prefix_tokens",
            "shared_suffix_tokens",
        ),
        (0.0, math.inf),
    ),
}
"""Smallest and largest possible value of a field and of its statistics."""


def _range(metric: str) -> tuple[float, float]:
    """The smallest and largest possible value of a metric."""
    base = metric.removesuffix(INCREASE)
    if is_share(base):
        low, high = 0.0, 1.0
    elif base == "pairs":
        low, high = 0.0, math.inf
    else:
        low, high = RANGES.get(base.rpartition("_")[0], (-math.inf, math.inf))
    if base == metric:
        return low, high
    return (low - high, high - low) if math.isfinite(high - low) else (-math.inf, math.inf)


def refuse_unreachable(text: str, metric: str, comparison: str, threshold: float, bounds: tuple[float, float]) -> None:
    """Reject a rule that can never be true. A gate with such a rule would always pass.

    Raises:
        UsageError: no value within the bounds of the metric makes it true.
    """
    low, high = bounds
    can_be_true = {
        "<": low < threshold,
        "<=": low <= threshold,
        ">": high > threshold,
        ">=": high >= threshold,
        "==": low <= threshold <= high and (metric != "pairs" or threshold.is_integer()),
        "!=": True,
    }
    if not can_be_true[comparison]:
        raise UsageError(
            f"rule {text!r} is never true: {metric} is from {low:g} to {high:g}",
            "a condition that can be true; the gate fails if it is",
            "move the threshold into that range, or reverse the comparison",
            topic="ci",
        )
