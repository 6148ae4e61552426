"""Random pairs of token ids."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from entangle_cli.engine.token_grams import token_gram_blocks
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse


def random_pair(
    vocabulary: int, prompt: int, chosen: int, rejected: int, seed: int, shared_words: int = 0
) -> TokenizedPair:
    """A pair with the given numbers of tokens. The responses can start with shared tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, vocabulary, (count,), generator=generator).tolist())

    start = draw(prompt)
    words = draw(shared_words)
    return TokenizedPair(
        *(
            TokenizedResponse(start + words + draw(length - shared_words), max(1, prompt))
            for length in (chosen, rejected)
        )
    )


def assorted_pairs(vocabulary: int) -> list[TokenizedPair]:
    """Different lengths, a one-token response, no prompt, a shared start, a first scored token inside the response."""
    pairs = [
        random_pair(vocabulary, prompt=5, chosen=7, rejected=4, seed=1),
        random_pair(vocabulary, prompt=3, chosen=1, rejected=1, seed=2),
        random_pair(vocabulary, prompt=0, chosen=6, rejected=9, seed=3),
        random_pair(vocabulary, prompt=4, chosen=9, rejected=8, seed=4, shared_words=5),
    ]
    chosen, rejected = pairs[0].chosen, pairs[0].rejected
    late = TokenizedPair(TokenizedResponse(chosen.ids, chosen.first_scored + 2), TokenizedResponse(rejected.ids, 1))
    return [*pairs, late]


def whole_gram(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], pair: TokenizedPair, max_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole token Gram [N, N] and the tokens' log-probs [N], put together from its blocks; every entry once."""
    count = pair.chosen.num_scored + pair.rejected.num_scored
    gram = torch.full((count, count), torch.nan, dtype=torch.float64)
    log_probs = torch.full((count,), torch.nan, dtype=torch.float64)
    for block in token_gram_blocks(model, parameters, pair, max_tokens):
        rows, columns = torch.tensor(block.rows), torch.tensor(block.columns)
        assert gram[rows.unsqueeze(1), columns].isnan().all()
        gram[rows.unsqueeze(1), columns] = block.gram_BB
        gram[columns.unsqueeze(1), rows] = block.gram_BB.T
        if block.log_probs_B is not None:
            log_probs[rows] = block.log_probs_B
    assert not gram.isnan().any()
    return gram, log_probs
