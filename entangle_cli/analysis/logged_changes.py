"""Changes of log-probs since the start of a training, from what its trainer logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

ANSWERS = ("chosen", "rejected")


def changes_by_rewards(points: Sequence[Mapping[str, float]], beta: float) -> list[dict[str, float]]:
    """Mean change of each answer's log-prob against the reference, nats, per logged point.

    TRL logs rewards/chosen = beta (log pi(chosen) - log pi_ref(chosen)), each point on its own batches. The reference
    is the start of the training unless another one was given.

    Args:
        points: logged numbers by name; see `data.trainer_log.NAMES`.
    """
    return [
        {answer: point[f"{answer}_reward"] / beta for answer in ANSWERS if f"{answer}_reward" in point}
        for point in points
    ]


def changes_by_log_probs(points: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The same for a trainer without a reference: log-probs against their mean over the first tenth of the points.

    Every point has its own batches, so these changes also hold the differences between batches.
    """
    start = ends(points, f"{ANSWERS[0]}_log_prob")[0], ends(points, f"{ANSWERS[1]}_log_prob")[0]
    return [
        {
            answer: point[f"{answer}_log_prob"] - before
            for answer, before in zip(ANSWERS, start, strict=True)
            if f"{answer}_log_prob" in point and before is not None
        }
        for point in points
    ]


def is_without_reference(points: Sequence[Mapping[str, float]], beta: float) -> bool:
    """Whether the logged rewards are beta times the log-probs themselves, as from a trainer without a reference."""
    known = [point for point in points if {"chosen_reward", "chosen_log_prob"} <= point.keys()]
    rewards, log_probs = (np.array([point[name] for point in known]) for name in ("chosen_reward", "chosen_log_prob"))
    return bool(known) and bool(np.allclose(rewards, beta * log_probs, rtol=1e-2, atol=0.0))


def ends(points: Sequence[Mapping[str, float]], name: str) -> tuple[float | None, float | None]:
    """Mean of a number over the first and over the last tenth of the points that have it; None if none has."""
    values = [point[name] for point in points if name in point]
    if not values:
        return None, None
    tenth = max(1, len(values) // 10)
    return float(np.mean(values[:tenth])), float(np.mean(values[-tenth:]))
