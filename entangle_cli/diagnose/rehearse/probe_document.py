"""What a rehearsal did to the probe answers, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from entangle_cli.analysis.probe_groups import group_changes, places_by_group
from entangle_cli.diagnose.probes.document import probe_groups, skipped_probes
from entangle_cli.diagnose.rehearse.followed_probes import RehearsalProbes
from entangle_cli.engine.displacement import ROUNDING_MARGIN
from entangle_cli.records.arrays import Floats, finite

ROUNDING = 2.0**-23
"""Relative rounding error of a log-prob: norms are computed in float32 in every dtype."""


def rehearsal_probes(given: RehearsalProbes, measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Rows, groups and their changes since the start under every loss, JSON-able.

    Args:
        measured: key of a loss to what `FollowedProbes.document` made of it.
    """
    rounding = ROUNDING_MARGIN * ROUNDING
    return {
        "data": given.identity,
        "generate": given.generate,
        "skipped": skipped_probes(given.skipped),
        "losses": [{"loss": loss, **_of_loss(probes, rounding)} for loss, probes in measured.items()],
    }


def _of_loss(probes: Mapping[str, Any], rounding: float) -> dict[str, Any]:
    rows: Sequence[Mapping[str, Any]] = probes["rows"]
    log_probs = np.array([row["log_probs"] for row in rows], dtype=np.float64).T
    changes = log_probs - log_probs[0]
    errors = rounding * np.maximum(np.abs(log_probs[0]), np.abs(log_probs[-1]))
    return {
        "groups": _groups(rows, probes["steps"], changes, errors),
        "rows": [
            {
                **{name: value for name, value in row.items() if name != "log_probs"},
                "log_prob": row["log_probs"][0],
                "change": finite(changes[-1, place]),
                "change_error": finite(errors[place]),
            }
            for place, row in enumerate(rows)
        ],
    }


def _groups(
    rows: Sequence[Mapping[str, Any]], steps: Sequence[int], changes: Floats, errors: Floats
) -> list[dict[str, Any]]:
    """The groups at the end and step by step.

    Args:
        changes: since the start, [steps, answers].
    """
    names = [row["group"] for row in rows]
    tokens = np.array([row["tokens"] for row in rows], dtype=np.float64)
    at_end = group_changes(names, changes[-1], errors, tokens)
    places = places_by_group(names)
    return [
        {
            **about,
            **at_end[group],
            "points": [
                {"step": step, "change_median": finite(np.median(changes[number, places[group]]))}
                for number, step in enumerate(steps)
            ],
        }
        for group, about in probe_groups(rows).items()
    ]
