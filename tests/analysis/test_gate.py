"""Parsing of rules, and verdicts on difficult numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from entangle_cli.analysis.gate import Limits, Outcome, Verdict, judge
from entangle_cli.analysis.rules import RULE_FIELDS, Rule, parse_rule
from entangle_cli.analysis.statistics import share_interval
from entangle_cli.errors import UsageError
from entangle_cli.records.pair import PairRecord

Columns = dict[str, np.ndarray[Any, Any]]


def run(
    movements: Sequence[str | None],
    skipped: int = 0,
    undefined: int = 0,
    uncertain: Sequence[bool | None] | None = None,
    **fields: list[float],
) -> Columns:
    """Measured pairs with these movements and fields, then unmeasured rows."""
    others = skipped + undefined
    status = ["ok"] * len(movements) + ["skipped"] * skipped + ["undefined"] * undefined
    columns: Columns = {
        "status": np.array(status, dtype=object),
        # An unmeasured row must not count, whatever its values.
        "movement": np.array([*movements, *["reversed"] * others], dtype=object),
        "uncertain": np.array([*(uncertain or [False] * len(movements)), *[True] * others], dtype=object),
    }
    for name, values in fields.items():
        columns[name] = np.array([*values, *[1e9] * others], dtype=float)
    return columns


def verdict(columns: Columns, *texts: str) -> Verdict:
    return judge([parse_rule(text) for text in texts], columns)


def outcome(columns: Columns, *texts: str) -> str:
    return verdict(columns, *texts).outcome.value


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("both_fall_rate > 0.1", ("both_fall_rate", ">", 0.1)),
        ("both_fall_rate<=0.10", ("both_fall_rate", "<=", 0.1)),
        ("  pairs <  1e3 ", ("pairs", "<", 1000.0)),
        ("slack_p05 < -0.5", ("slack_p05", "<", -0.5)),
        ("cosine_median == 1", ("cosine_median", "==", 1.0)),
        ("chosen_tokens_max != 0", ("chosen_tokens_max", "!=", 0.0)),
        ("chosen_log_prob_mean >= -1e2", ("chosen_log_prob_mean", ">=", -100.0)),
        ("skipped_rate > 0", ("skipped_rate", ">", 0.0)),
        ("both_fall_rate > 20%", ("both_fall_rate", ">", 0.2)),
        ("both_fall_rate > 12.5 %", ("both_fall_rate", ">", 0.125)),
        ("both_fall_rate_increase > 5%", ("both_fall_rate_increase", ">", 0.05)),
    ],
)
def test_rules_are_read(text: str, rule: tuple[str, str, float]) -> None:
    found = parse_rule(text)
    assert (found.metric, found.operator, found.threshold) == rule
    assert found.text == text.strip()


@pytest.mark.parametrize("field", RULE_FIELDS)
def test_rule_fields_are_fields_of_a_pair(field: str) -> None:
    assert field in PairRecord.__annotations__
    assert parse_rule(f"{field}_p99 != 1").metric == f"{field}_p99"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "both_fall_rate",
        "both_fall_rate 0.1",
        "both_fall_rate > ",
        "> 0.1",
        "both_fall_rate = 0.1",
        "both_fall_rate => 0.1",
        "both_fall_rate <> 0.1",
        "both_fall_rate >> 0.1",
        "both_fall_rate > 0.1 and pairs < 3",
        "both fall rate > 0.1",
        "0.1 < both_fall_rate < 0.2",
        "both_fall_rate > 110%",
        "cosine_median > 10%",
        "both_fall_rate > nan",
        "both_fall_rate > inf",
        "both_fall_rate > ten",
        "both_fall_rate > 1.5",
        "both_fall_rate > 10",
        "skipped_rate >= -0.1",
        "cosine_median > -inf",
        "slack_p00 < 1",
        "slack_p100 < 1",
        "slack_p5 < 1",
        "slack_sum < 1",
        "slack < 1",
        "movement_mean < 1",
        "Both_Fall_Rate > 0.1",
        "both_fall_rate\n> 0.1\nx",
    ],
)
def test_invalid_rules_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rule(text)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("both_falls_rate", "both_fall_rate"),
        ("both_fall", "both_fall_rate"),
        ("skiped_rate", "skipped_rate"),
        ("pair", "pairs"),
        ("slack_meen", "slack_mean"),
        ("slack_p5", "slack_p05"),
        ("cosin_median", "cosine_median"),
    ],
)
def test_an_unknown_metric_suggests_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        parse_rule(f"{wrong} > 0.5")


# One of ten pairs falls: the rate is exactly the float64 nearest to 0.1.
TEN = run(["both_fall"] + ["separates"] * 9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("both_fall_rate > 0.1", "passed"),
        ("both_fall_rate >= 0.1", "failed"),
        ("both_fall_rate < 0.1", "passed"),
        ("both_fall_rate <= 0.1", "failed"),
        ("both_fall_rate == 0.1", "failed"),
        ("both_fall_rate != 0.1", "passed"),
        ("both_fall_rate > 0.0999999999", "failed"),
        ("both_fall_rate > 0.1000000001", "passed"),
        ("both_fall_rate < 0.1000000001", "failed"),
        ("pairs < 10", "passed"),
        ("pairs <= 10", "failed"),
        ("skipped_rate > 0", "passed"),
        ("reversed_rate > 0", "passed"),
        ("still_rate >= 0", "failed"),
    ],
)
def test_a_true_condition_fails_the_gate(text: str, expected: str) -> None:
    assert outcome(TEN, text) == expected


@pytest.mark.parametrize("count", range(1, 30))
def test_a_rate_equal_to_a_written_threshold_is_equal(count: int) -> None:
    columns = run(["both_fall"] * count + ["separates"] * (9 * count))
    assert outcome(columns, "both_fall_rate > 0.1") == "passed"
    assert outcome(columns, "both_fall_rate >= 0.1") == "failed"


def observed(columns: Columns, metric: str) -> float | None:
    return judge([Rule("", metric, ">", 0.0)], columns).results[0].observed


def test_every_rate_counts_what_it_says() -> None:
    movements = ["separates"] * 8
    movements += ["both_rise"] * 4 + ["both_fall"] * 2 + ["reversed"] + ["still"]
    uncertain = [True] * 5 + [False] * 11
    columns = run(movements, skipped=3, undefined=1, uncertain=uncertain)
    expected = {
        "separates_rate": 8 / 16,
        "both_rise_rate": 4 / 16,
        "both_fall_rate": 2 / 16,
        "reversed_rate": 1 / 16,
        "still_rate": 1 / 16,
        "chosen_falls_rate": 3 / 16,
        "rejected_rises_rate": 5 / 16,
        "uncertain_rate": 5 / 16,
        "skipped_rate": 3 / 20,
        "undefined_rate": 1 / 20,
        "pairs": 16,
    }
    assert {metric: observed(columns, metric) for metric in expected} == expected


def test_statistics_of_a_field() -> None:
    columns = run(["separates"] * 5, skipped=2, slack=[1.0, 2.0, math.nan, 4.0, 5.0])
    expected = {
        "slack_mean": 3.0,
        "slack_min": 1.0,
        "slack_max": 5.0,
        "slack_median": 3.0,
        "slack_p50": 3.0,
        "slack_p25": 1.75,
        "slack_p99": pytest.approx(4.97),
    }
    assert {metric: observed(columns, metric) for metric in expected} == expected


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (run(["separates"], slack=[math.nan]), "slack_median < 0"),
        (run(["separates"], slack=[math.inf]), "slack_median < 0"),
        (run(["separates"] * 2, slack=[1.0, math.inf]), "slack_mean < 0"),
        (run(["separates"] * 2, slack=[1.0, math.inf]), "slack_max > 9"),
        (run(["separates"] * 2, slack=[-math.inf, math.inf]), "slack_median < 0"),
        (run(["separates"]), "slack_median < 0"),
        (run(["separates", None]), "both_fall_rate > 0.5"),
        (run(["separates", ""]), "separates_rate < 0.1"),
        (run(["separates"], uncertain=[None]), "uncertain_rate > 0.5"),
        (run([], skipped=3), "both_fall_rate > 0.5"),
        (run([], skipped=3), "uncertain_rate > 0.5"),
        (run([], skipped=3), "cosine_mean > 0.5"),
        (run([]), "skipped_rate > 0.5"),
        (run([]), "undefined_rate > 0.5"),
    ],
)
def test_a_metric_that_cannot_be_computed_never_passes(columns: Columns, text: str) -> None:
    for reverse in (text, text.replace(">", "~").replace("<", ">=").replace("~", "<=")):
        found = verdict(columns, reverse)
        assert found.outcome is Outcome.CANNOT_JUDGE
        assert found.results[0].observed is None
        assert "cannot be computed" in found.results[0].sentence


def test_the_sentence_says_why_there_is_no_number() -> None:
    nulls = run(["separates"] * 2, slack=[math.nan, math.nan])
    (result,) = verdict(nulls, "slack_mean < 0").results
    assert "none of 2 measured pairs has a value" in result.sentence
    (result,) = verdict(run([]), "skipped_rate > 0").results
    assert "there are no rows" in result.sentence


def test_an_infinite_value_beyond_the_quantile_does_not_matter() -> None:
    columns = run(["separates"] * 3, slack=[-1.0, 2.0, math.inf])
    assert outcome(columns, "slack_median < 0") == "passed"
    assert outcome(columns, "slack_min < 0") == "failed"


def test_a_run_without_pairs_can_fail_but_never_pass() -> None:
    columns = run([], skipped=3)
    only_skipped = verdict(columns, "undefined_rate > 0.5")
    assert only_skipped.results[0].outcome is Outcome.PASSED
    assert only_skipped.outcome is Outcome.CANNOT_JUDGE
    assert "No pair was measured" in only_skipped.sentence
    assert outcome(columns, "skipped_rate > 0.5") == "failed"
    assert outcome(columns, "pairs < 1") == "failed"
    assert outcome(columns, "pairs > 9") == "cannot_judge"


def test_a_failed_rule_outweighs_rules_that_cannot_be_judged() -> None:
    passes, fails, unknown = "pairs < 1", "pairs > 1", "slack_mean > 0"
    assert outcome(TEN, passes, passes) == "passed"
    assert outcome(TEN, passes, unknown) == "cannot_judge"
    assert outcome(TEN, unknown, passes) == "cannot_judge"
    found = verdict(TEN, passes, unknown, fails)
    assert found.outcome is Outcome.FAILED
    assert [result.outcome.value for result in found.results] == [
        "passed",
        "cannot_judge",
        "failed",
    ]
    assert [result.rule.text for result in found.results] == [passes, unknown, fails]


def test_no_rules_do_not_pass() -> None:
    assert judge([], TEN).outcome is Outcome.CANNOT_JUDGE


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("both_fall_rate > 0.1", "both fall: 14.3 % (1 of 7 measured pairs), limit 10 %"),
        # As many digits as it takes to stand on its own side of the limit.
        ("both_fall_rate > 0.1428", "both fall: 14.3 % (1 of 7 measured pairs), limit 14.28 %"),
        ("both_fall_rate > 0.143", "both fall: 14.29 % (1 of 7 measured pairs), limit 14.3 %"),
        ("both_fall_rate > 0.14285714", "both fall: 14.3 % (1 of 7 measured pairs), limit 14.285714 %"),
        ("both_fall_rate >= 0.2", "both fall: 14.3 % (1 of 7 measured pairs), must stay below 20 %"),
        ("separates_rate < 0.9", "separates: 85.7 % (6 of 7 measured pairs), at least 90 %"),
        (
            "both_fall_rate_high > 0.9",
            "both fall, upper end of the 95 % interval: 51.3 % (1 of 7 measured pairs), limit 90 %",
        ),
        ("pairs < 10", "pairs: 7 (of 7 rows), at least 10"),
    ],
)
def test_a_sentence_shows_a_short_number_on_its_side_of_the_limit(rule: str, words: str) -> None:
    (result,) = verdict(run(["both_fall"] + ["separates"] * 6), rule).results
    assert result.sentence == words


def test_the_observed_number_is_not_rounded() -> None:
    assert verdict(run(["both_fall"] + ["separates"] * 6), "both_fall_rate > 0.1").results[0].observed == 1 / 7


def test_numpy_string_columns_are_read_too() -> None:
    columns = {name: column.astype(str) for name, column in TEN.items() if name != "uncertain"}
    columns["uncertain"] = np.zeros(10, dtype=bool)
    assert outcome(columns, "both_fall_rate >= 0.1") == "failed"
    assert outcome(columns, "uncertain_rate > 0") == "passed"


def test_the_ends_of_a_rates_interval() -> None:
    columns = run(["both_fall"] * 20 + ["separates"] * 80)
    low, high = share_interval(20, 100)  # type: ignore[misc]
    found = judge([parse_rule("both_fall_rate_low > 0.15"), parse_rule("both_fall_rate_high > 0.25")], columns)
    assert [result.observed for result in found.results] == [low, high]
    assert [result.outcome.value for result in found.results] == ["passed", "failed"]
    assert "95 % interval" in found.results[0].sentence


def test_increases_over_a_baseline() -> None:
    before, now = run(["both_fall"] + ["separates"] * 9), run(["both_fall"] * 3 + ["separates"] * 7)
    rules = [parse_rule("both_fall_rate_increase > 0.1"), parse_rule("pairs_increase != 0")]
    found = judge(rules, now, before)
    assert [result.observed for result in found.results] == [pytest.approx(0.2), 0]
    assert [result.outcome.value for result in found.results] == ["failed", "passed"]
    assert judge(rules, now).outcome is Outcome.CANNOT_JUDGE
    assert judge(rules[:1], now, run([])).outcome is Outcome.CANNOT_JUDGE
    assert parse_rule("cosine_p95_increase > -5").threshold == -5
    assert parse_rule("both_fall_rate_low_increase > -0.5").threshold == -0.5


@pytest.mark.parametrize(
    "text", ["cosine_low > 0", "cosine_mean_low > 0", "pairs_low > 1", "both_fall_rate_high > 1.5", "x_increase > 0"]
)
def test_metrics_without_an_interval(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rule(text)


TRUTH: dict[str, tuple[Columns, list[str], Limits, str]] = {
    "equal to the threshold, strict": (TEN, ["both_fall_rate > 0.1"], Limits(), "passed"),
    "equal to the threshold": (TEN, ["both_fall_rate >= 0.1"], Limits(), "failed"),
    "not a number": (run(["separates"], cosine=[math.nan]), ["cosine_mean > 0"], Limits(), "cannot_judge"),
    "none judged": (run([]), ["both_fall_rate > 0.5"], Limits(), "cannot_judge"),
    "all skipped": (run([], skipped=5), ["both_fall_rate > 0.5"], Limits(), "cannot_judge"),
    "all skipped, and a rule against it": (run([], skipped=5), ["skipped_rate > 0.5"], Limits(), "failed"),
    "baseline missing": (TEN, ["both_fall_rate_increase > 0"], Limits(), "cannot_judge"),
    "too few, though none breaches": (TEN, ["both_fall_rate > 0.5"], Limits(min_pairs=11), "cannot_judge"),
    "too few, though one breaches": (TEN, ["both_fall_rate > 0.05"], Limits(min_pairs=11), "cannot_judge"),
    "just enough": (TEN, ["both_fall_rate > 0.5"], Limits(min_pairs=10), "passed"),
    "too many skipped": (run(["separates"], skipped=1), ["pairs < 1"], Limits(max_skipped=0.4), "cannot_judge"),
    "just not too many": (run(["separates"], skipped=1), ["pairs < 1"], Limits(max_skipped=0.5), "passed"),
}


@pytest.mark.parametrize("case", TRUTH)
def test_the_truth_table(case: str) -> None:
    columns, texts, limits, expected = TRUTH[case]
    assert judge([parse_rule(text) for text in texts], columns, limits=limits).outcome.value == expected
