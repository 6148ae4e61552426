"""Pushes, roles and masks of a pair's tokens, against explicit gradient vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.analysis import token_sums
from entangle_cli.analysis.token_sums import Role, TokenSums
from entangle_cli.analysis.tokens import concentration, cosines, masked_roles, pushes, role_products, token_roles

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


ROLES = [P, C, S, P, C, S, R]


def sums_of(gram: np.ndarray, num_chosen: int = 3, size: int = 7, roles: list[Role] = ROLES) -> TokenSums:
    """The sums of a Gram matrix, which is added in blocks of a size, in no order."""
    sums = TokenSums(num_chosen, roles)
    parts = [list(range(start, min(start + size, len(gram)))) for start in range(0, len(gram), size)]
    for number, rows in reversed(list(enumerate(parts))):
        for columns in parts[number:]:
            sums.add(rows, columns, gram[np.ix_(rows, columns)])
    return sums


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_blocks_of_any_size_add_up_to_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_sums, "SHOWN_TOKENS", 2)
    vectors = gradients()
    gram = vectors @ vectors.T
    sums = sums_of(gram, size=size)
    np.testing.assert_allclose(sums.diagonal_N, np.diagonal(gram))
    np.testing.assert_allclose(sums.by_group_NG.sum(1), gram.sum(1))
    np.testing.assert_allclose(sums.shown_SS, gram[:2, 3:5])
    np.testing.assert_allclose(sums.shown_cosines, cosines(gram)[:2, 3:5])
    np.testing.assert_allclose(sums.largest, np.sort(gram[:3, 3:].ravel())[::-1])
    group = sums.group(S, is_rejected=True)
    np.testing.assert_allclose(sums.by_group_NG[:, group], gram[:, 5])


def test_only_the_largest_products_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_sums, "LARGEST", 4)
    vectors = gradients()
    gram = vectors @ vectors.T
    np.testing.assert_allclose(sums_of(gram, size=2).largest, np.sort(gram[:3, 3:].ravel())[::-1][:4])


def test_most_of_the_inner_product_comes_from_few_token_pairs() -> None:
    gram = np.zeros((5, 5))
    gram[:2, 2:] = [[10.0, 1.0, 0.0], [-1.0, 2.0, 0.0]]
    gram += gram.T
    roles = [R] * 5
    found = concentration(sums_of(gram, 2, roles=roles))
    assert found == {"token_pairs": 1, "of": 6, "share": pytest.approx(10 / 12)}
    gram[0, 2] = gram[2, 0] = 5.0
    found = concentration(sums_of(gram, 2, roles=roles))
    assert found == {"token_pairs": 2, "of": 6, "share": pytest.approx(1.0)}
    assert concentration(sums_of(-gram, 2, roles=roles)) is None


def test_pushes_match_a_real_step() -> None:
    vectors = gradients()
    chosen, rejected = vectors[:3].sum(0), vectors[3:].sum(0)
    step = 0.3 * chosen - 0.2 * rejected
    found = pushes(sums_of(vectors @ vectors.T), (0.3, 0.2))
    assert found.tokens_N == pytest.approx(vectors @ step)
    assert found.total(3) == pytest.approx((chosen @ step, rejected @ step))
    assert found.by_tokens_2N.sum(1) == pytest.approx([chosen @ step, rejected @ step])


def test_a_mask_removes_tokens_from_the_loss_but_not_from_the_answer() -> None:
    vectors = gradients()
    cases = masked_roles(sums_of(vectors @ vectors.T), lambda _: (1.0, 1.0))
    assert [(case["masked"], case["tokens"]) for case in cases] == [
        (None, 0), ("prefix", 2), ("contrastive", 2), ("shared", 2), ("rest", 1)
    ]  # fmt: skip
    step = vectors[1] + vectors[2] - vectors[4:].sum(0)
    assert cases[1]["chosen_delta"] == pytest.approx(vectors[:3].sum(0) @ step)
    assert cases[1]["rejected_delta"] == pytest.approx(vectors[3:].sum(0) @ step)


def test_a_mask_can_change_the_loss_coefficients() -> None:
    vectors = gradients()
    lengths = [int(sum(role is not P for role in side)) for side in (ROLES[:3], ROLES[3:])]
    cases = masked_roles(sums_of(vectors @ vectors.T), lambda mask: (1 / mask[:3].sum(), 1 / mask[3:].sum()))
    step = (vectors[1] + vectors[2]) / lengths[0] - vectors[4:].sum(0) / lengths[1]
    assert cases[1]["chosen_delta"] == pytest.approx(vectors[:3].sum(0) @ step)


def test_parts_by_role_add_up_to_the_inner_product() -> None:
    vectors = gradients()
    parts = role_products(sums_of(vectors @ vectors.T))
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
