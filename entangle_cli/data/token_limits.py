"""What a model and the settings allow of a sequence, and what is cut from it; see TRL 1.16's DPO collator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.records.measurement import TokenizedResponse
from entangle_cli.records.settings import LARGEST_ROW, Truncation


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Settings that determine which tokens of a pair are kept and scored."""

    max_length: int | None = 1024
    """Limit on tokens of prompt and response together; None for no limit."""
    truncation: Truncation = Truncation.KEEP_START
    position_limit: int | None = None
    """Number of learned position embeddings; None if positions are computed."""
    context: int | None = None
    """The model's context length in tokens; None if its config does not state one."""
    num_embeddings: int | None = None
    """Number of token embeddings of the model; None for the tokenizer's number of tokens."""
    max_characters: int = LARGEST_ROW
    """Limit on the characters of a text to tokenise, including the output of a chat template."""


def most_tokens(settings: TokenSettings) -> int | None:
    """Most tokens of a prompt and an answer that a model writes itself; None for no limit."""
    limits = (settings.max_length, settings.context, settings.position_limit)
    return min((limit for limit in limits if limit is not None), default=None)


def unusable_whole(
    pair: PreferencePair, sides: Sequence[TokenizedResponse], settings: TokenSettings
) -> SkippedRow | None:
    """Why the answers to a prompt cannot be used, whatever is cut from them; None if they can."""
    if unknown := unknown_token(pair, [side.ids for side in sides], settings):
        return unknown
    limit, shared = settings.max_length, min(side.first_scored for side in sides)
    if limit is not None and settings.truncation is Truncation.KEEP_START and shared >= limit:
        return pair.skipped("prompt_too_long", f"the prompt has {shared} tokens, and --max-length is {limit}")
    return None


def unknown_token(
    pair: PreferencePair, sequences: Sequence[Sequence[int]], settings: TokenSettings
) -> SkippedRow | None:
    """The reason to skip a pair with a token that the model has no embedding for; None if it has all."""
    largest = max(max(ids, default=0) for ids in sequences)
    if settings.num_embeddings is None or largest < settings.num_embeddings:
        return None
    detail = f"token id {largest}, but the model has only {settings.num_embeddings} embeddings"
    return pair.skipped("malformed", detail)


def num_cut(side: TokenizedResponse, settings: TokenSettings) -> int:
    """Tokens of a sequence beyond the limit."""
    return 0 if settings.max_length is None else max(0, len(side.ids) - settings.max_length)


def truncated_by(whole: TokenizedResponse, cut: int, truncation: Truncation) -> TokenizedResponse:
    """Cut `cut` tokens from a response. `truncated` is True if a scored token was cut."""
    if truncation is Truncation.KEEP_START:
        kept = TokenizedResponse(whole.ids[: len(whole.ids) - cut], max(1, whole.first_scored))
    else:
        kept = TokenizedResponse(whole.ids[cut:], max(1, whole.first_scored - cut))
    # Without a prompt, the first token is never scored, even without truncation.
    num_scored = len(whole.ids) - max(1, whole.first_scored)
    return replace(kept, truncated=kept.num_scored < num_scored)


def not_scored(responses: Mapping[str, TokenizedResponse], settings: TokenSettings) -> tuple[str, str] | None:
    """Why a response, by its name in messages, cannot be scored; None if all can."""
    for name, response in responses.items():
        if response.num_scored == 0:
            return "empty", f"no token of the {name} response is scored"
        # The last token is scored but not an input, so a model with n positions accepts n + 1 tokens.
        if settings.position_limit is not None and len(response.ids) - 1 > settings.position_limit:
            detail = (
                f"the {name} sequence has {len(response.ids)} tokens, but the model has only "
                f"{settings.position_limit} positions"
            )
            return "too_long_for_model", detail
    return None
