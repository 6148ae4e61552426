"""Comparison of runs pair by pair: matching, transitions, and coverage of the intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from entangle_cli.analysis.comparison import (
    compare_runs,
    match_pairs,
    mean_interval,
    median_interval,
    paired_difference,
)


def run(ids: str, movements: str, cosines: list[float], chosen: list[float] | None = None) -> dict[str, Any]:
    """Columns from one letter per pair for id and movement: s(eparates), f(alls both), r(ises both), - for skipped."""
    names = {"s": "separates", "f": "both_fall", "r": "both_rise", "-": None}
    log_probs = np.array(chosen if chosen is not None else [-1.0] * len(ids))
    return {
        "pair_id": np.array(list(ids), dtype=object),
        "status": np.array(["skipped" if m == "-" else "ok" for m in movements], dtype=object),
        "movement": np.array([names[m] for m in movements], dtype=object),
        "cosine": np.array(cosines, dtype=float),
        "chosen_log_prob": log_probs,
        "rejected_log_prob": log_probs - 1,
        "chosen_delta": np.where(np.array(list(movements)) == "f", -1.0, 1.0),
        "rejected_delta": np.where(np.array(list(movements)) == "r", 1.0, -1.0),
    }


FIRST = run("abcde", "sfr-s", [0.1, 0.2, 0.3, math.nan, 0.5], [-1.0, -2.0, -3.0, math.nan, -5.0])
SECOND = run("xbace", "sffss", [0.0, 0.4, 0.6, 0.1, 0.2], [-9.0, -1.0, -2.0, -2.5, -6.0])


def test_pairs_are_matched_by_their_ids() -> None:
    match = match_pairs(FIRST, SECOND)
    assert [FIRST["pair_id"][place] for place in match.first] == list("abce")
    assert [SECOND["pair_id"][place] for place in match.second] == list("abce")
    assert (match.only_first, match.only_second) == (0, 1)


def test_repeated_pairs_are_matched_in_order() -> None:
    match = match_pairs(run("aab", "sss", [0.0] * 3), run("baaa", "ssss", [0.0] * 4))
    assert (match.first.tolist(), match.second.tolist(), match.only_second) == ([0, 1, 2], [1, 2, 0], 1)


def test_changes_match_a_hand_computed_example() -> None:
    found = compare_runs(FIRST, SECOND)
    assert found["transitions"]["separates"] == {
        "separates": 1, "both_rise": 0, "both_fall": 1, "reversed": 0, "still": 0
    }  # fmt: skip
    assert found["transitions"]["both_rise"]["separates"] == 1
    assert found["movements"]["both_fall"]["before"]["count"] == 1
    assert found["movements"]["both_fall"]["difference"] == 0.25
    assert found["fields"]["cosine"]["mean_difference"] == pytest.approx((0.5 + 0.2 - 0.2 - 0.3) / 4)
    # a: predicted up, fell; b: predicted down, rose; c: predicted up, rose; e: predicted up, fell.
    assert found["log_probs"]["chosen"]["as_predicted"]["count"] == 1
    assert found["log_probs"]["chosen"]["fell"]["count"] == 2
    assert found["log_probs"]["chosen"]["mean_change"] == pytest.approx((-1 + 1 + 0.5 - 1) / 4)


def test_a_run_against_itself_shows_no_change() -> None:
    found = compare_runs(FIRST, FIRST)
    for change in found["movements"].values():
        assert change["difference"] == 0
        assert change["interval"][0] < 0 < change["interval"][1]
    assert found["fields"]["cosine"]["median_difference"] == 0
    assert found["log_probs"]["chosen"]["as_predicted"]["rate"] is None


def test_swapping_the_runs_reverses_the_differences() -> None:
    there, back = compare_runs(FIRST, SECOND), compare_runs(SECOND, FIRST)
    for name in there["movements"]:
        assert there["movements"][name]["difference"] == -back["movements"][name]["difference"]
        assert there["movements"][name]["interval"] == pytest.approx(
            [-x for x in back["movements"][name]["interval"][::-1]]
        )


def test_runs_without_common_pairs_have_no_numbers() -> None:
    found = compare_runs(FIRST, run("yz", "ss", [0.0, 0.0]))
    assert found["matched"] == 0
    assert found["movements"]["separates"]["difference"] is None
    assert found["fields"]["cosine"]["mean_interval"] is None


def covers(interval: Any, truth: float) -> bool:
    return bool(interval.low <= truth <= interval.high)


@pytest.mark.parametrize("count", [20, 100])
def test_intervals_cover_as_often_as_they_promise(count: int) -> None:
    random = np.random.default_rng(0)
    means, medians, shares = [], [], []
    for _ in range(2000):
        differences = random.exponential(size=count)
        means.append(covers(mean_interval(random.normal(1.0, 2.0, size=count)), 1.0))
        medians.append(covers(median_interval(differences), math.log(2)))
        gained, lost, _ = random.multinomial(count, [0.3, 0.1, 0.6])
        shares.append(covers(paired_difference(gained, lost, count), 0.2))
    for found in (means, medians, shares):
        assert np.mean(found) > 0.93
