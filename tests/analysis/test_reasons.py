"""Each reason fires in a run that was made up for it, and only there; the rules keep their promises on any run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.analysis.reasons import REASON_MEANINGS, ReasonCode, pair_reason, run_reasons

PAIRS = 40


def run(**changes: Any) -> dict[str, Any]:
    """Forty pairs, half of which both fall and half both rise, in which no rule holds."""
    half = PAIRS // 2
    columns = {
        "status": np.full(PAIRS, "ok", dtype=object),
        "movement": np.array(["both_fall"] * half + ["both_rise"] * half, dtype=object),
        "cosine": np.full(PAIRS, 0.75),
        "warnings": np.full(PAIRS, None, dtype=object),
        # Whichever answer wins is longer in half of the pairs.
        "chosen_tokens": np.tile([100.0, 50.0], half),
        "rejected_tokens": np.tile([50.0, 100.0], half),
        "norm_ratio": np.array([0.6] * half + [1.6] * half),
        "edit_distance": np.full(PAIRS, 80.0),
        "shared_prefix_tokens": np.full(PAIRS, 2.0),
        "chosen_delta": np.array([-1.0] * half + [1.0] * half),
        "rejected_delta": np.array([-1.0] * half + [1.0] * half),
    }
    return columns | changes


def layers(largest: float) -> list[dict[str, Any]]:
    rest = (1 - largest) / 4
    return [{"group": "embedding", "cosine_part": largest}] + [
        {"group": f"block {block} MLP", "cosine_part": rest} for block in range(4)
    ]


def codes(columns: dict[str, Any], profile: list[dict[str, Any]] | None = None) -> list[str]:
    return [reason.code for reason in run_reasons(columns, profile or [])]


EQUAL = {"chosen_tokens": np.full(PAIRS, 100.0), "rejected_tokens": np.full(PAIRS, 100.0)}
ALIKE = {**EQUAL, "norm_ratio": np.full(PAIRS, 1.1)}
MADE_UP = {
    ReasonCode.LONGER_ANSWER: {
        "chosen_tokens": np.array([50.0] * 20 + [100.0] * 20),
        "rejected_tokens": np.array([100.0] * 20 + [50.0] * 20),
    },
    ReasonCode.NEAR_DUPLICATES: {**ALIKE, "edit_distance": np.full(PAIRS, 5.0)},
    ReasonCode.SHARED_PREFIX: {
        **ALIKE,
        "edit_distance": np.full(PAIRS, 30.0),
        "shared_prefix_tokens": np.full(PAIRS, 70.0),
    },
    ReasonCode.SHARED_TOKENS: {**ALIKE, "edit_distance": np.full(PAIRS, 30.0)},
    ReasonCode.NORM_WITHOUT_LENGTH: EQUAL,
    ReasonCode.FEW_PAIRS: {"chosen_delta": np.array([-100.0] * 2 + [-1.0] * 18 + [1.0] * 20)},
    ReasonCode.DATA_TRAP: {"warnings": np.array(["W-TRUNCATED"] * 9 + [None] * 31, dtype=object)},
}


@pytest.mark.parametrize("code", MADE_UP)
def test_each_reason_fires_alone_in_its_run(code: ReasonCode) -> None:
    assert codes(run(**MADE_UP[code]), layers(0.2)) == [ReasonCode.OVERLAP, code]


def test_one_group_fires_alone() -> None:
    assert codes(run(), layers(0.6)) == [ReasonCode.OVERLAP, ReasonCode.ONE_GROUP]


def test_where_no_rule_holds_nothing_stands_out() -> None:
    reasons = run_reasons(run(), layers(0.2))
    assert [reason.code for reason in reasons] == [ReasonCode.OVERLAP, ReasonCode.NOTHING]
    assert reasons[0].sentence == "The gradients overlap: median cosine 0.75."


def test_where_every_pair_separates_there_is_nothing_to_explain() -> None:
    assert codes(run(movement=np.full(PAIRS, "separates", dtype=object))) == []


def test_few_pairs_are_no_basis_for_a_rule() -> None:
    wrong = np.array(["both_fall"] * 9 + ["separates"] * 31, dtype=object)
    assert codes(run(**{**MADE_UP[ReasonCode.LONGER_ANSWER], "movement": wrong})) == [
        ReasonCode.OVERLAP,
        ReasonCode.NOTHING,
    ]


def test_every_code_has_words() -> None:
    assert set(REASON_MEANINGS) == set(ReasonCode)


lengths = st.lists(st.integers(1, 500), min_size=PAIRS, max_size=PAIRS)


@given(chosen=lengths, rejected=lengths)
def test_the_longer_answer_wins_exactly_from_four_fifths_on(chosen: list[int], rejected: list[int]) -> None:
    wins = sum(r > c for c, r in zip(chosen[:20], rejected[:20], strict=True))
    wins += sum(c > r for c, r in zip(chosen[20:], rejected[20:], strict=True))
    columns = run(chosen_tokens=np.array(chosen, dtype=float), rejected_tokens=np.array(rejected, dtype=float))
    assert (ReasonCode.LONGER_ANSWER in codes(columns)) is (wins >= 32)


@given(distances=st.lists(st.integers(0, 100), min_size=PAIRS, max_size=PAIRS), prefix=st.integers(0, 100))
def test_at_most_one_reason_says_that_answers_are_alike(distances: list[int], prefix: int) -> None:
    shared_prefix = np.minimum(prefix, 100.0 - np.array(distances))
    found = codes(run(**ALIKE, edit_distance=np.array(distances, dtype=float), shared_prefix_tokens=shared_prefix))
    alike = {ReasonCode.NEAR_DUPLICATES, ReasonCode.SHARED_PREFIX, ReasonCode.SHARED_TOKENS}
    assert len(alike & set(found)) == int(np.count_nonzero(np.array(distances) <= 40) >= 24)


@given(ratios=st.lists(st.floats(0.01, 100.0), min_size=PAIRS, max_size=PAIRS))
def test_a_norm_ratio_counts_by_its_distance_from_one(ratios: list[float]) -> None:
    given_way = np.array(ratios)
    assert codes(run(**EQUAL, norm_ratio=given_way)) == codes(run(**EQUAL, norm_ratio=1 / given_way))


@given(largest=st.floats(0.0, 1.0))
def test_one_group_needs_half_of_the_cosine(largest: float) -> None:
    assert (ReasonCode.ONE_GROUP in codes(run(), layers(largest))) is (max(largest, (1 - largest) / 4) >= 0.5)


@given(part=st.floats(1.0, 1e4))
def test_scaling_all_movements_changes_no_reason(part: float) -> None:
    columns = run(**MADE_UP[ReasonCode.FEW_PAIRS])
    scaled = columns | {name: part * columns[name] for name in ("chosen_delta", "rejected_delta")}
    assert codes(scaled) == codes(columns)


@given(flags=st.lists(st.booleans(), min_size=PAIRS, max_size=PAIRS))
def test_a_warning_counts_from_every_fifth_pair_on(flags: list[bool]) -> None:
    warnings = np.array(["W-A W-B" if flag else None for flag in flags], dtype=object)
    assert (ReasonCode.DATA_TRAP in codes(run(warnings=warnings))) is (sum(flags) >= 8)


ROW = {"status": "ok", "reason": None, "chosen_tokens": 61, "rejected_tokens": 461, "norm_ratio": 1 / 4.3} | {
    "cosine": 0.45,
    "edit_distance": 440,
}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "The rejected answer is 7.6 times longer, its gradient 4.3 times larger; cosine 0.45."),
        (
            {"norm_ratio": 2.0},
            "The rejected answer is 7.6 times longer, but the chosen gradient is 2.0 times larger; cosine 0.45.",
        ),
        (
            {"rejected_tokens": 60, "edit_distance": 5, "norm_ratio": 1.5},
            "The answers are about equally long, but the chosen gradient is 1.5 times larger; cosine 0.45; "
            "92 % of the tokens are shared.",
        ),
        (
            {"rejected_tokens": 60, "norm_ratio": 1.0},
            "The answers are about equally long, and so are their gradients; cosine 0.45.",
        ),
        (
            {"norm_ratio": 1 / 1.2},
            "The rejected answer is 7.6 times longer, but the gradients are about equal; cosine 0.45.",
        ),
        ({"cosine": None, "status": "skipped", "reason": "tie"}, "skipped: tie"),
    ],
)
def test_one_pair_in_words(changes: dict[str, Any], sentence: str) -> None:
    assert pair_reason(ROW | changes) == sentence
