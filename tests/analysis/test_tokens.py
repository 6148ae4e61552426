"""Pushes, roles and masks of a pair's tokens, against explicit gradient vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.analysis.tokens import Role, cosines, masked_roles, pushes, role_products, token_roles

P, C, S, R = Role.PREFIX, Role.CONTRASTIVE, Role.SHARED, Role.REST


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("abXcd", "abYcd", ([P, P, C, S, S], [P, P, C, S, S])),
        ("Xab", "Yab", ([C, S, S], [C, S, S])),
        ("abX", "ab", ([P, P, R], [P, P])),
        ("ab", "XYab", ([S, S], [R, R, S, S])),
        ("a", "b", ([C], [C])),
    ],
)
def test_roles(chosen: str, rejected: str, expected: tuple[list[Role], list[Role]]) -> None:
    assert token_roles([ord(c) for c in chosen], [ord(c) for c in rejected]) == expected


@given(st.lists(st.integers(0, 3), min_size=1), st.lists(st.integers(0, 3), min_size=1))
def test_prefix_and_shared_tokens_are_the_same_in_both(chosen: list[int], rejected: list[int]) -> None:
    roles = token_roles(chosen, rejected)
    for role in (P, S):
        ours, theirs = (
            [token for token, own in zip(tokens, side, strict=True) if own is role]
            for tokens, side in zip((chosen, rejected), roles, strict=True)
        )
        assert ours == theirs


def gradients(num_chosen: int = 3, num_rejected: int = 4) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(num_chosen + num_rejected, 10))


def test_pushes_match_a_real_step() -> None:
    vectors = gradients()
    chosen, rejected = vectors[:3].sum(0), vectors[3:].sum(0)
    step = 0.3 * chosen - 0.2 * rejected
    found = pushes(vectors @ vectors.T, 3, (0.3, 0.2))
    assert found.tokens_N == pytest.approx(vectors @ step)
    assert found.total(3) == pytest.approx((chosen @ step, rejected @ step))
    assert found.by_tokens_2N.sum(1) == pytest.approx([chosen @ step, rejected @ step])


def test_a_mask_removes_tokens_from_the_loss_but_not_from_the_answer() -> None:
    vectors = gradients()
    roles = [P, C, S, P, C, S, R]
    cases = masked_roles(vectors @ vectors.T, 3, lambda _: (1.0, 1.0), roles)
    assert [(case["masked"], case["tokens"]) for case in cases] == [
        (None, 0), ("prefix", 2), ("contrastive", 2), ("shared", 2), ("rest", 1)
    ]  # fmt: skip
    step = vectors[1] + vectors[2] - vectors[4:].sum(0)
    assert cases[1]["chosen_delta"] == pytest.approx(vectors[:3].sum(0) @ step)
    assert cases[1]["rejected_delta"] == pytest.approx(vectors[3:].sum(0) @ step)


def test_a_mask_can_change_the_loss_coefficients() -> None:
    vectors = gradients()
    roles = [P, C, S, P, C, S, R]
    lengths = [int(sum(role is not P for role in side)) for side in (roles[:3], roles[3:])]
    cases = masked_roles(vectors @ vectors.T, 3, lambda mask: (1 / mask[:3].sum(), 1 / mask[3:].sum()), roles)
    step = (vectors[1] + vectors[2]) / lengths[0] - vectors[4:].sum(0) / lengths[1]
    assert cases[1]["chosen_delta"] == pytest.approx(vectors[:3].sum(0) @ step)


def test_parts_by_role_add_up_to_the_inner_product() -> None:
    vectors = gradients()
    parts = role_products(vectors @ vectors.T, 3, [P, C, S, P, C, S, R])
    assert sum(part["inner_product"] for part in parts) == pytest.approx(vectors[:3].sum(0) @ vectors[3:].sum(0))
    assert sum(part["of"] for part in parts) == 12


def test_cosines() -> None:
    vectors = gradients()
    vectors[2] = 0.0
    found = cosines(vectors @ vectors.T)
    assert np.isnan(found[2]).all()
    assert found[0, 1] == pytest.approx(
        vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
    )
