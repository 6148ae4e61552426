"""A model's own greedy answers to prompts, written on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from entangle_cli.data.token_limits import TokenSettings, most_tokens
from entangle_cli.diagnose.probes.tokenized import TokenizedProbe
from entangle_cli.records.measurement import TokenizedResponse

PLAIN_GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}
"""Arguments of `generate` that replace the checkpoint's own. A penalty on repetitions would hide them."""


def with_own_answers(
    model: Any, tokenizer: Any, probes: Sequence[TokenizedProbe], settings: TokenSettings, num_tokens: int
) -> list[TokenizedProbe]:
    """The probes, with the model's own answers where none is given. An end-of-sequence token is part of an answer.

    Args:
        model: a causal LM in evaluation mode.
        settings: limits on prompt and answer together.
        num_tokens: most tokens of an answer.
    Cost: a forward pass over each prompt, and one of one token for each token of its answer. Prompts are answered one
    by one, because padding on the left changes what some models write.
    """
    ends, limit = end_tokens(model, tokenizer), most_tokens(settings)
    written = []
    for probe in probes:
        if probe.answer.is_own:
            prompt = probe.tokens.ids
            room = num_tokens if limit is None else min(num_tokens, limit - len(prompt))
            ids = greedy_answer(model, prompt, room, ends)
            probe = replace(probe, tokens=TokenizedResponse(prompt + ids, len(prompt)))
        written.append(probe)
    return written


def greedy_answer(model: Any, prompt: Sequence[int], num_tokens: int, ends: Sequence[int]) -> tuple[int, ...]:
    """The most likely token after each, up to and with the first of `ends`, at most `num_tokens` in all.

    Args:
        prompt: token ids, at least one.
    """
    ids = torch.tensor([list(prompt)], device=model.device)
    whole = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=num_tokens,
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,
        **PLAIN_GREEDY,
    )
    return tuple(whole[0, len(prompt) :].tolist())


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: those of the checkpoint's generation settings, and the tokenizer's."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id]
    return list(dict.fromkeys(token for token in ids if token is not None))
