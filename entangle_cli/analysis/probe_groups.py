"""What happened to groups of probe answers: which gain probability, which lose it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from entangle_cli.records.arrays import Floats

GAIN, FALL = "gain", "fall"


class GroupChange(NamedTuple):
    """The changes of a group's log-probs. Answers without a finite change do not count; None without any."""

    change_median: float | None
    """In nats."""
    gains: int
    """Answers that gain probability."""
    gain_rate: float | None
    change_per_token: float | None
    """Sum of the changes over the sum of the tokens, nats."""
    all_move: str | None
    """`gain` or `fall` if every answer of the group does so by more than its error."""


def group_change(changes: Floats, errors: Floats, tokens: Floats) -> GroupChange:
    """Sum up one group.

    Args:
        changes, errors: of the log-probs and bounds of their errors, nats, [answers].
        tokens: scored tokens, [answers].
    """
    known = np.isfinite(changes)
    found = changes[known]
    if not len(found):
        return GroupChange(None, 0, None, None, None)
    gains = int(np.count_nonzero(found > 0))
    per_token = float(found.sum() / tokens[known].sum())
    return GroupChange(float(np.median(found)), gains, gains / len(found), per_token, _all_move(changes, errors))


def _all_move(changes: Floats, errors: Floats) -> str | None:
    if (changes > errors).all():
        return GAIN
    return FALL if (changes < -errors).all() else None


def places_by_group(groups: Sequence[str]) -> dict[str, list[int]]:
    """The places of each group's answers, in the order of the groups' first answers."""
    places: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    return places


def group_changes(groups: Sequence[str], changes: Floats, errors: Floats, tokens: Floats) -> dict[str, dict[str, Any]]:
    """`group_change` of every group, as plain data."""
    return {
        group: group_change(changes[places], errors[places], tokens[places])._asdict()
        for group, places in places_by_group(groups).items()
    }
