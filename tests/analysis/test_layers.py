"""The profile over groups: its columns add up, and a group without gradient has no cosine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entangle_cli.analysis.layers import layer_profile

GROUPS = ["embedding", "block 0 MLP", "head"]


def part(seed: int, pairs: int) -> dict[str, Any]:
    """Products of random gradients with 5 parameters per group."""
    random = np.random.default_rng(seed)
    chosen, rejected = random.normal(size=(2, pairs, len(GROUPS), 5))
    return {
        "groups": GROUPS,
        "chosen_squared_norm": (chosen**2).sum(-1).ravel(),
        "rejected_squared_norm": (rejected**2).sum(-1).ravel(),
        "inner_product": (chosen * rejected).sum(-1).ravel(),
    }


def cosines(*parts: dict[str, Any]) -> np.ndarray:
    sums = [
        np.concatenate([each[name].reshape(-1, 3).sum(1) for each in parts])
        for name in ("chosen_squared_norm", "rejected_squared_norm", "inner_product")
    ]
    return sums[2] / np.sqrt(sums[0] * sums[1])


def test_shares_add_up_to_one_and_parts_to_the_cosine() -> None:
    parts = [part(0, 4), part(1, 7)]
    profile = layer_profile(parts)
    assert [row["group"] for row in profile] == GROUPS
    assert sum(row["chosen_share"] for row in profile) == pytest.approx(1)
    assert sum(row["rejected_share"] for row in profile) == pytest.approx(1)
    assert sum(row["cosine_part"] for row in profile) == pytest.approx(cosines(*parts).mean())


def test_the_split_into_parts_does_not_matter() -> None:
    whole, first, second = part(0, 6), part(0, 6), part(0, 6)
    first = {name: values if name == "groups" else values[:6] for name, values in first.items()}
    second = {name: values if name == "groups" else values[6:] for name, values in second.items()}
    for one, other in zip(layer_profile([whole]), layer_profile([first, second]), strict=True):
        assert one == pytest.approx(other)


def test_groups_without_gradient_have_no_cosine_and_pairs_without_one_do_not_count() -> None:
    still = part(0, 2)
    still["chosen_squared_norm"][0::3] = still["inner_product"][0::3] = 0.0
    profile = layer_profile([still])
    assert profile[0]["cosine"] is None
    assert profile[0]["chosen_share"] == 0
    empty = {name: values if name == "groups" else values * 0 for name, values in part(1, 2).items()}
    assert layer_profile([still, empty])[1] == pytest.approx(profile[1])


def test_without_layers_there_is_no_profile() -> None:
    assert layer_profile([]) == []
