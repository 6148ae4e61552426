"""Why pairs go the wrong way: fixed rules over what is stored, for a run and for one pair.

A pair goes the wrong way where both log-probs move alike or in the wrong order. Each rule looks at those pairs alone
and holds or does not. Every threshold stands below with its reason. A rule that holds names a fact of the run; it
proves no cause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from entangle_cli.analysis.statistics import quantiles
from entangle_cli.records.arrays import Floats
from entangle_cli.records.overview import Reason
from entangle_cli.records.pair import WRONG_WAY, Movement, Status
from entangle_cli.records.words import percent

Booleans = NDArray[np.bool_]
Pairs = Mapping[str, Any]
"""Fields of the pairs that go the wrong way, [pairs] each."""
Layers = Sequence[Mapping[str, Any]]

FEWEST_PAIRS = 10
"""With 8 of 10 pairs the 95 % interval of a share begins at 49 %: fewer pairs cannot show that a rule holds in most."""

LONGER_SHARE = 0.8
"""Of the pairs. Where length decided nothing the longer answer would win in about half of them."""

CLEARLY_LONGER = 1.25
"""Ratio of two lengths, of answers or of gradients. A ratio of norms of 1.25 pushes both log-probs the same way from a
cosine of 0.8 on, which is usual for two answers to one prompt."""

MOST = 0.6
"""Share of the pairs, and of the tokens of a pair: clearly more than half."""

NEAR_DUPLICATE = 0.9
"""Share of equal tokens: at most one token in ten differs."""

FEW_PAIRS, LARGE_PART = 0.05, 0.5
"""If one twentieth of the pairs makes up half of the wrong movement, those few pairs steer a batch."""

ONE_GROUP = 0.5
"""Share of the cosine. With blocks, embedding and head there are dozens of groups; one with half of it stands out."""

TRAP_SHARE = 0.2
"""Of the pairs that carry one warning: every fifth pair is too many to be an accident."""


class ReasonCode(StrEnum):
    """What may explain a run. The values are names that `entangle explain` knows."""

    OVERLAP = "gradients_overlap"
    LONGER_ANSWER = "longer_answer_wins"
    NEAR_DUPLICATES = "near_duplicates"
    SHARED_PREFIX = "shared_prefix"
    SHARED_TOKENS = "shared_tokens"
    NORM_WITHOUT_LENGTH = "norm_without_length"
    FEW_PAIRS = "few_pairs"
    ONE_GROUP = "one_group"
    DATA_TRAP = "data_trap"
    NOTHING = "nothing_stands_out"


_IN_MOST = f"in at least {percent(MOST)} of the pairs that go the wrong way"

REASON_MEANINGS = {
    ReasonCode.OVERLAP: "the median cosine of the two gradients; shown first, since the other reasons act through it",
    ReasonCode.LONGER_ANSWER: f"in at least {percent(LONGER_SHARE)} of the pairs that go the wrong way the longer "
    "answer pulls the other one along",
    ReasonCode.NEAR_DUPLICATES: f"{_IN_MOST} at most one token in ten differs",
    ReasonCode.SHARED_PREFIX: f"{_IN_MOST} both answers begin with the same tokens, at least {percent(MOST)} of the "
    "longer answer",
    ReasonCode.SHARED_TOKENS: f"{_IN_MOST} the answers share at least {percent(MOST)} of their tokens",
    ReasonCode.NORM_WITHOUT_LENGTH: f"{_IN_MOST} the answers are about equally long, but one gradient is at least "
    f"{CLEARLY_LONGER:g} times the other: the model finds one answer far less likely",
    ReasonCode.FEW_PAIRS: f"{percent(FEW_PAIRS)} of the pairs that go the wrong way make up at least "
    f"{percent(LARGE_PART)} of the wrong movement",
    ReasonCode.ONE_GROUP: f"one parameter group makes up at least {percent(ONE_GROUP)} of the cosine; needs --layers",
    ReasonCode.DATA_TRAP: f"at least {percent(TRAP_SHARE)} of the pairs that go the wrong way carry one data warning",
    ReasonCode.NOTHING: "no rule holds for the pairs that go the wrong way",
}
"""Every code in words, with its threshold."""


def run_reasons(columns: Mapping[str, Any], layers: Layers = ()) -> list[Reason]:
    """Why pairs of a run go the wrong way, the most telling reason first; empty where no pair does.

    Args:
        columns: the run's, with the movements of a loss, [rows].
        layers: the profile of `analysis.layers.layer_profile`; empty for a run without layers.
    """
    measured = columns["status"] == Status.OK.value
    wrong = measured & np.isin(columns["movement"].astype(str), [movement.value for movement in WRONG_WAY])
    if not wrong.any():
        return []
    pairs = {name: columns[name][wrong] for name in NEEDED}
    reasons = [
        reason
        for rule in (RULES if int(wrong.sum()) >= FEWEST_PAIRS else [_one_group])
        for reason in rule(pairs, layers)
    ]
    return [
        *_overlap(columns["cosine"][measured]),
        *(reasons or [Reason(ReasonCode.NOTHING, "Nothing else stands out.")]),
    ]


NEEDED = (
    "movement",
    "warnings",
    "chosen_tokens",
    "rejected_tokens",
    "norm_ratio",
    "edit_distance",
    "shared_prefix_tokens",
    "chosen_delta",
    "rejected_delta",
)
"""Fields that the rules look at."""


def _overlap(cosines: Floats) -> list[Reason]:
    middle = quantiles(cosines, [0.5])
    return (
        [] if middle is None else [Reason(ReasonCode.OVERLAP, f"The gradients overlap: median cosine {middle[0]:.2f}.")]
    )


def _longer_answer(pairs: Pairs, _: Layers) -> Iterator[Reason]:
    falls, rises = (pairs["movement"] == kind.value for kind in (Movement.BOTH_FALL, Movement.BOTH_RISE))
    rejected_longer = pairs["rejected_tokens"] > pairs["chosen_tokens"]
    chosen_longer = pairs["chosen_tokens"] > pairs["rejected_tokens"]
    wins = [(int((falls & rejected_longer).sum()), int(falls.sum()), "rejected", "both fall")]
    wins += [(int((rises & chosen_longer).sum()), int(rises.sum()), "chosen", "both rise")]
    if sum(count for count, *_ in wins) >= LONGER_SHARE * len(falls):
        parts = [
            f"the {side} answer is longer in {count} of {total} that {fate}"
            for count, total, side, fate in wins
            if total
        ]
        yield Reason(ReasonCode.LONGER_ANSWER, f"The longer answer wins: {', '.join(parts)}.")


def _alike(pairs: Pairs, _: Layers) -> Iterator[Reason]:
    """At most one of three: near-duplicates, a shared beginning, shared tokens anywhere."""
    longest = np.maximum(pairs["chosen_tokens"], pairs["rejected_tokens"])
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = 1.0 - pairs["edit_distance"] / longest
        near = shared >= NEAR_DUPLICATE
        prefix = ~near & (pairs["shared_prefix_tokens"] / longest >= MOST)
    total = len(longest)
    if int(near.sum()) >= MOST * total:
        yield _counted(
            ReasonCode.NEAR_DUPLICATES, near, "The answers are nearly the same: at most one token in ten differs"
        )
    elif int(prefix.sum()) >= MOST * total:
        yield _counted(
            ReasonCode.SHARED_PREFIX, prefix, "Both answers begin with the same tokens, for most of their length,"
        )
    elif int((shared >= MOST).sum()) >= MOST * total:
        yield _counted(
            ReasonCode.SHARED_TOKENS, shared >= MOST, f"The answers share at least {percent(MOST)} of their tokens"
        )


def _counted(code: ReasonCode, holds: Booleans, words: str) -> Reason:
    return Reason(code, f"{words} in {int(holds.sum())} of {len(holds)}.")


def _norm_without_length(pairs: Pairs, _: Layers) -> Iterator[Reason]:
    with np.errstate(invalid="ignore", divide="ignore"):
        length = np.abs(np.log(pairs["chosen_tokens"] / pairs["rejected_tokens"]))
        norm = np.abs(np.log(pairs["norm_ratio"]))
    clearly = np.log(CLEARLY_LONGER)
    holds = (length < clearly) & (norm >= clearly)
    if int(holds.sum()) >= MOST * len(holds):
        yield _counted(
            ReasonCode.NORM_WITHOUT_LENGTH,
            holds,
            "One gradient is clearly larger though the answers are about equally long",
        )


def _few_pairs(pairs: Pairs, _: Layers) -> Iterator[Reason]:
    with np.errstate(invalid="ignore"):
        wrong = np.fmax(-pairs["chosen_delta"], 0.0) + np.fmax(pairs["rejected_delta"], 0.0)
    wrong = np.sort(wrong[np.isfinite(wrong)])[::-1]
    few = max(1, round(FEW_PAIRS * len(wrong)))
    total = float(wrong.sum())
    if total > 0 and len(wrong) >= 2 * FEWEST_PAIRS and (part := float(wrong[:few].sum()) / total) >= LARGE_PART:
        noun = "pair makes" if few == 1 else "pairs make"
        yield Reason(
            ReasonCode.FEW_PAIRS, f"Few pairs carry it: {few} {noun} up {percent(part)} of the wrong movement."
        )


def _one_group(_: Pairs, layers: Layers) -> Iterator[Reason]:
    parts = {row["group"]: row["cosine_part"] or 0.0 for row in layers}
    total = sum(parts.values())
    if total > 0:
        group = max(parts, key=lambda name: parts[name])
        if (share := parts[group] / total) >= ONE_GROUP:
            yield Reason(ReasonCode.ONE_GROUP, f"{percent(share)} of the overlap is in {group}.")


def _data_trap(pairs: Pairs, _: Layers) -> Iterator[Reason]:
    counts = Counter(code for codes in pairs["warnings"] if codes is not None for code in codes.split())
    total = len(pairs["warnings"])
    for code, count in counts.most_common(1):
        if count >= TRAP_SHARE * total:
            yield Reason(ReasonCode.DATA_TRAP, f"{count} of {total} carry the warning {code}.")


RULES = (_longer_answer, _alike, _norm_without_length, _few_pairs, _one_group, _data_trap)
"""In the order in which their reasons are shown."""


def pair_reason(row: Mapping[str, Any]) -> str:
    """One pair in words: its lengths, its gradients, their cosine and what the answers share.

    Args:
        row: a pair's fields by name.
    Returns:
        A sentence such as "The rejected answer is 7.6 times longer, its gradient 4.3 times larger; cosine 0.45."
        For a row that was not measured, its reason.
    """
    if row["cosine"] is None or row["norm_ratio"] is None:
        return f"{row['status']}: {row['reason']}"
    chosen, rejected = max(1, row["chosen_tokens"] or 0), max(1, row["rejected_tokens"] or 0)
    longer, times = ("chosen", chosen / rejected) if chosen >= rejected else ("rejected", rejected / chosen)
    steeper, norms = ("chosen", row["norm_ratio"]) if row["norm_ratio"] >= 1 else ("rejected", 1 / row["norm_ratio"])
    alike = norms < CLEARLY_LONGER
    if times < CLEARLY_LONGER:
        gradients = "and so are their gradients" if alike else f"but the {steeper} gradient is {norms:.1f} times larger"
        words = f"The answers are about equally long, {gradients}"
    elif alike:
        words = f"The {longer} answer is {times:.1f} times longer, but the gradients are about equal"
    elif longer == steeper:
        words = f"The {longer} answer is {times:.1f} times longer, its gradient {norms:.1f} times larger"
    else:
        words = (
            f"The {longer} answer is {times:.1f} times longer, but the {steeper} gradient is {norms:.1f} times larger"
        )
    words += f"; cosine {row['cosine']:.2f}"
    if row["edit_distance"] is not None and (shared := 1 - row["edit_distance"] / max(chosen, rejected)) >= MOST:
        words += f"; {percent(shared)} of the tokens are shared"
    return words + "."
