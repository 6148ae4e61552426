"""Words that two answers share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.analysis import shared_words
from entangle_cli.analysis.shared_words import shared_pieces


def test_equal_words_are_shared_and_others_not() -> None:
    chosen, rejected = shared_pieces("Yes, the sky is blue.", "No, the sky is green.")
    assert [piece.text for piece in chosen if not piece.is_shared] == ["Yes", "blue."]
    assert [piece.text for piece in rejected if not piece.is_shared] == ["No", "green."]


@given(chosen=st.text(max_size=60), rejected=st.text(max_size=60))
def test_pieces_join_to_the_texts_and_shared_ones_agree(chosen: str, rejected: str) -> None:
    sides = shared_pieces(chosen, rejected)
    assert tuple("".join(piece.text for piece in side) for side in sides) == (chosen, rejected)
    shared = ["".join(piece.text for piece in side if piece.is_shared) for side in sides]
    assert shared[0] == shared[1]


def test_long_answers_are_compared_at_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_words, "LONGEST", 3)
    chosen, _ = shared_pieces("a b c d", "a b c d")
    assert [(piece.text, piece.is_shared) for piece in chosen] == [("a b", True), (" c d", False)]


def test_a_single_word_in_common_is_not_marked() -> None:
    assert not any(piece.is_shared for side in shared_pieces("the end", "at the start") for piece in side)
