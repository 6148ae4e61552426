"""Losses compared pair by pair, and rules on a rehearsal."""

from __future__ import annotations

import numpy as np
import pytest

from entangle_cli.analysis.gate import Outcome
from entangle_cli.analysis.rehearsal import BOUNDS, judge_rehearsal, paired_differences, parse_rehearsal_rule
from entangle_cli.errors import UsageError

T_24 = 2.063899
"""97.5 % quantile of Student's t with 24 degrees of freedom, from a table."""


def test_the_intervals_are_student_s() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(size=(2, 25))
    second = first + generator.normal([[0.4], [0.0]], 0.5, size=(2, 25))
    chosen, rejected, margin = paired_differences(first, second)
    assert [each.change for each in (chosen, rejected, margin)] == ["chosen", "rejected", "margin"]
    for found, values in (
        (chosen, second[0] - first[0]),
        (margin, (second[0] - first[0]) - (second[1] - first[1])),
    ):
        spread = T_24 * values.std(ddof=1) / 5
        expected = (values.mean() - spread, values.mean() + spread)
        assert found.mean == pytest.approx(values.mean())
        assert found.interval == pytest.approx(expected, rel=1e-3)
        assert found.is_beyond_chance == (expected[0] > 0 or expected[1] < 0)
    assert chosen.is_beyond_chance
    assert not rejected.is_beyond_chance


def test_undefined_pairs_do_not_count() -> None:
    first, second = np.zeros((2, 3)), np.array([[1.0, np.nan, 3.0], [0.0, 0.0, 0.0]])
    chosen, rejected, margin = paired_differences(first, second)
    assert (chosen.pairs, chosen.mean, margin.mean) == (2, 2.0, 2.0)
    assert (rejected.pairs, rejected.interval, rejected.is_beyond_chance) == (3, None, None)
    assert paired_differences(first[:, :0], second[:, :0])[0].mean is None


POINT = {"train": {"chosen_falls_rate": 0.5, "chosen_change_mean": -0.25}, "held_out": None}


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("chosen_falls_rate > 40%", Outcome.FAILED),
        ("chosen_falls_rate > 0.5", Outcome.PASSED),
        ("chosen_change_mean < -0.2", Outcome.FAILED),
        ("margin_change_mean < 0", Outcome.CANNOT_JUDGE),
        ("held_out_chosen_falls_rate > 0.1", Outcome.CANNOT_JUDGE),
    ],
)
def test_rules_are_judged(text: str, outcome: Outcome) -> None:
    result = judge_rehearsal(parse_rehearsal_rule(text), POINT)
    assert result.outcome is outcome
    assert text.split()[0] in result.sentence


@pytest.mark.parametrize("text", ["cosine_median > 0", "chosen_falls_rate > 2", "cosine_mean > 1", "pairs", "x > nan"])
def test_rules_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rehearsal_rule(text)


def test_every_metric_can_be_used() -> None:
    for metric in BOUNDS:
        assert parse_rehearsal_rule(f"held_out_{metric} > 0.1").metric == f"held_out_{metric}"
