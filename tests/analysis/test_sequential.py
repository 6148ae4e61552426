"""The sequential gate: bounds against the formula, simulated error rates of the verdict, and stopping times."""

from __future__ import annotations

from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.analysis.gate import Outcome
from entangle_cli.analysis.rules import parse_rule
from entangle_cli.analysis.sequential import check_rules, decide, round_sizes, total_bounds
from entangle_cli.errors import UsageError


def columns(bad: np.ndarray, skipped: np.ndarray | None = None) -> dict[str, Any]:
    skipped = np.zeros(len(bad), dtype=bool) if skipped is None else skipped
    return {
        "status": np.where(skipped, "skipped", "ok").astype(object),
        "movement": np.where(skipped, None, np.where(bad, "both_fall", "separates").astype(object)),
        "uncertain": np.where(skipped, np.nan, 0.0),
    }


@given(st.data())
def test_bounds_match_the_formula(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 40))
    drawn = data.draw(st.integers(1, total))
    count = data.draw(st.integers(0, drawn))
    inside = [
        number
        for number in range(total + 1)
        if Fraction(total + 1) * comb(number, count) * comb(total - number, drawn - count) / comb(total + 1, drawn + 1)
        >= Fraction(1, 20)
    ]
    assert total_bounds(count, drawn, total, 0.05) == (min(inside), max(inside))


def test_bounds_are_exact_after_all_rows() -> None:
    assert total_bounds(7, 50, 50, 1e-9) == (7, 7)


@pytest.mark.parametrize("rate", [0.08, 0.1, 0.102, 0.13])
def test_wrong_verdicts_are_as_rare_as_promised(rate: float) -> None:
    """Checks after every round, on populations near the threshold with some rows that cannot be measured."""
    rule, random, wrong, taken = parse_rule("both_fall_rate > 0.1"), np.random.default_rng(1), 0, []
    for _ in range(300):
        bad, skipped = random.random(2000) < rate, random.random(2000) < 0.05
        truth = bad[~skipped].mean() > 0.1
        for size in round_sizes(2000):
            found = decide([rule], columns(bad[:size], skipped[:size]), 2000, 0.95)
            if found.outcome is not None:
                break
        assert found.outcome is not None
        wrong += (found.outcome is Outcome.FAILED) is not bool(truth)
        taken.append(size)
    assert wrong <= 300 * 0.05
    if abs(rate - 0.1) >= 0.02:
        assert np.mean(taken) < 2000


def test_a_clear_case_needs_few_rows() -> None:
    random = np.random.default_rng(0)
    for rate, expected in ((0.01, Outcome.PASSED), (0.4, Outcome.FAILED)):
        bad = random.random(500) < rate
        size = next(n for n in round_sizes(100_000) if decide([RULE], columns(bad[:n]), 100_000, 0.95).outcome)
        assert size <= 144
        assert decide([RULE], columns(bad[:size]), 100_000, 0.95).outcome is expected


RULE = parse_rule("both_fall_rate > 0.1")


def test_several_rules_share_the_error_and_wait_for_each_other() -> None:
    bad = np.zeros(100, dtype=bool)
    one = decide([RULE], columns(bad), 10_000, 0.95).rules[0].bounds
    both = decide([RULE, parse_rule("skipped_rate > 0.0001")], columns(bad), 10_000, 0.95)
    assert both.rules[0].bounds.high > one.high
    assert both.rules[0].outcome is Outcome.PASSED
    assert both.rules[1].outcome is None
    assert both.outcome is None
    sure = decide([RULE, parse_rule("skipped_rate > 0.5")], columns(~bad), 10_000, 0.95)
    assert sure.outcome is Outcome.FAILED


@pytest.mark.parametrize("text", ["pairs < 10", "skipped_rate >= 0", "uncertain_rate == 0", "chosen_falls_rate != 0.5"])
def test_every_metric_is_exact_after_all_rows(text: str) -> None:
    from entangle_cli.analysis.gate import judge

    random = np.random.default_rng(5)
    run = columns(random.random(40) < 0.3, random.random(40) < 0.2)
    rule = parse_rule(text)
    assert decide([rule], run, 40, 0.95).outcome is judge([rule], run).outcome


@pytest.mark.parametrize("text", ["cosine_p95 > 0.9", "both_fall_rate_low > 0.1", "pairs_increase > 0"])
def test_rules_that_counts_cannot_decide(text: str) -> None:
    with pytest.raises(UsageError, match="--until-decided"):
        check_rules([parse_rule(text)])
    with pytest.raises(UsageError, match="without a rule"):
        check_rules([])


@given(st.integers(1, 10**6))
def test_rounds_grow_to_all_rows(num_rows: int) -> None:
    sizes = round_sizes(num_rows)
    assert sizes[-1] == num_rows
    assert sizes == sorted(set(sizes))
