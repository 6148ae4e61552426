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
        points: logged numbers by name; see `data.trainer_log.LOGGED`.
    """
    return [
        {answer: point[f"{answer}_reward"] / beta for answer in ANSWERS if f"{answer}_reward" in point}
        for point in points
    ]


def changes_by_log_probs(points: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The same for a trainer without a reference: log-probs against their mean over the first tenth of the points.

    Every point has its own batches, so these changes also hold the differences between batches.
    """
    changes: list[dict[str, float]] = [{} for _ in points]
    for answer in ANSWERS:
        name = f"{answer}_log_prob"
        if (both_ends := start_and_end([point[name] for point in points if name in point])) is None:
            continue
        for point, change in zip(points, changes, strict=True):
            if name in point:
                change[answer] = point[name] - both_ends[0]
    return changes


def is_without_reference(points: Sequence[Mapping[str, float]], beta: float) -> bool:
    """Whether the logged rewards are beta times the log-probs themselves, as from a trainer without a reference."""
    known = [point for point in points if {"chosen_reward", "chosen_log_prob"} <= point.keys()]
    rewards, log_probs = (np.array([point[name] for point in known]) for name in ("chosen_reward", "chosen_log_prob"))
    return bool(known) and bool(np.allclose(rewards, beta * log_probs, rtol=1e-2, atol=0.0))


def start_and_end(values: Sequence[float]) -> tuple[float, float] | None:
    """Means of the first and of the last tenth of a curve; None without a value."""
    if not values:
        return None
    tenth = max(1, len(values) // 10)
    return float(np.mean(values[:tenth])), float(np.mean(values[-tenth:]))
