"""Overlap of the gradients by parameter group, averaged over pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def layer_profile(parts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Contribution of every group to the norms and the cosine, averaged over pairs.

    A, B and P of a pair are the sums of A_g, B_g and P_g over its groups. `chosen_share` is the mean of A_g / A,
    `rejected_share` of B_g / B, and `cosine_part` of P_g / sqrt(A B). The shares add up to 1, and the parts add up to
    the mean cosine. `cosine` is the mean of P_g / sqrt(A_g B_g), the cosine within the group.

    Args:
        parts: parts from `store.read_layers`: the rows of a pair are adjacent and always in the same order of groups.
    Returns:
        One mapping per group, in the same order. Pairs with a vanishing or infinite norm are excluded. Empty if there
        are no parts.
    """
    names: list[str] = []
    sums: Any = None
    counts: Any = None
    for part in parts:
        names = names or part["groups"]
        # [pairs, groups] each.
        chosen, rejected, inner = (
            part[name].reshape(-1, len(names))
            for name in ("chosen_squared_norm", "rejected_squared_norm", "inner_product")
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.sqrt(chosen.sum(1) * rejected.sum(1))[:, None]
            values = np.stack(
                [
                    chosen / chosen.sum(1)[:, None],
                    rejected / rejected.sum(1)[:, None],
                    inner / scale,
                    inner / np.sqrt(chosen * rejected),
                ]
            )
        is_finite = np.isfinite(values)
        is_finite[:3] &= is_finite[:3].all(axis=(0, 2), keepdims=True)
        part_sums, part_counts = np.where(is_finite, values, 0.0).sum(1), is_finite.sum(1)
        sums, counts = (part_sums, part_counts) if sums is None else (sums + part_sums, counts + part_counts)
    columns = ("chosen_share", "rejected_share", "cosine_part", "cosine")
    return [
        {"group": name}
        | {
            column: float(sums[number, group] / counts[number, group]) if counts[number, group] else None
            for number, column in enumerate(columns)
        }
        for group, name in enumerate(names)
    ]
