"""Which words of two answers are the same, for showing them side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

WORD = re.compile(r"\w+|[^\w\s]|\s+")

LONGEST = 4000
"""Words of an answer that are compared; matching takes time with the product of both lengths."""


FEWEST_WORDS = 2
"""Words of a shared stretch; a single word that both answers have says nothing."""


class Piece(NamedTuple):
    """A stretch of an answer."""

    text: str
    is_shared: bool
    """Whether the other answer has the same words, in the same order."""


def shared_pieces(chosen: str, rejected: str) -> tuple[list[Piece], list[Piece]]:
    """Both answers in pieces, by alignment of their words (Ratcliff and Obershelp, as difflib has it).

    Returns:
        Pieces that join to the texts again. What lies behind the first `LONGEST` words counts as not shared.
    """
    words = [WORD.findall(text) for text in (chosen, rejected)]
    heads = [side[:LONGEST] for side in words]
    matches = SequenceMatcher(None, heads[0], heads[1], autojunk=False).get_matching_blocks()
    blocks = [block for block in matches if _num_words(heads[0][block.a : block.a + block.size]) >= FEWEST_WORDS]
    return (
        _pieces(words[0], [(block.a, block.a + block.size) for block in blocks]),
        _pieces(words[1], [(block.b, block.b + block.size) for block in blocks]),
    )


def _num_words(words: Sequence[str]) -> int:
    return sum(word[0].isalnum() for word in words)


def _pieces(words: Sequence[str], shared: Sequence[tuple[int, int]]) -> list[Piece]:
    pieces, end = [], 0
    for start, stop in shared:
        pieces += [Piece("".join(words[end:start]), is_shared=False), Piece("".join(words[start:stop]), is_shared=True)]
        end = stop
    pieces.append(Piece("".join(words[end:]), is_shared=False))
    return [piece for piece in pieces if piece.text]
