"""Where in the network the gradients overlap: averages over pairs of what each group of parameters adds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def layer_profile(parts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each group adds to the norms and to the cosine, averaged over pairs.

    With A, B, P of a pair the sums of A_g, B_g, P_g over its groups, `chosen_share` is the mean of A_g / A,
    `rejected_share` of B_g / B, and `cosine_part` of P_g / sqrt(A B), so that each column of shares adds up to 1 and
    the parts to the mean cosine. `cosine` is the mean of P_g / sqrt(A_g B_g), the group's own.

    Args:
        parts: as `store.read_layers` gives them: the rows of a pair stand together, in the same order of groups.
    Returns:
        One mapping a group, in their order; pairs with a vanishing or infinite norm are left out. Empty without any.
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
            found = np.stack(
                [
                    chosen / chosen.sum(1)[:, None],
                    rejected / rejected.sum(1)[:, None],
                    inner / scale,
                    inner / np.sqrt(chosen * rejected),
                ]
            )
        known = np.isfinite(found)
        known[:3] &= known[:3].all(axis=(0, 2), keepdims=True)
        added = np.where(known, found, 0.0).sum(1), known.sum(1)
        sums, counts = added if sums is None else (sums + added[0], counts + added[1])
    columns = ("chosen_share", "rejected_share", "cosine_part", "cosine")
    return [
        {"group": name}
        | {
            column: float(sums[place, group] / counts[place, group]) if counts[place, group] else None
            for place, column in enumerate(columns)
        }
        for group, name in enumerate(names)
    ]
