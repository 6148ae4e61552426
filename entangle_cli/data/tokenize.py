"""Pairs to token ids, boundary and truncation, equal to TRL 1.16's DPOTrainer and its collator."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.traps import content_text
from entangle_cli.data.trl_rows import Messages, Text
from entangle_cli.errors import ModelError
from entangle_cli.records import TokenizedPair, TokenizedResponse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZATION = "trl-1.16"
"""Whose rules these are; stands in every manifest."""


class Truncation(str, Enum):
    """Which end of a sequence longer than `max_length` is kept."""

    KEEP_START = "keep_start"
    KEEP_END = "keep_end"


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """What decides which tokens of a pair are seen and scored."""

    max_length: int | None = 1024
    """Tokens of prompt and response together; None for no limit."""
    truncation: Truncation = Truncation.KEEP_START
    position_limit: int | None = None
    """Positions that the model has embeddings for; None where positions are computed."""
    num_embeddings: int | None = None
    """Tokens that the model has embeddings for; None for as many as the tokenizer has."""


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """A pair's tokens, with what the run document says of them."""

    pair: TokenizedPair
    prompt_tokens: int
    boundary_moved: bool
    """The tokenised prompt is no prefix of prompt and answer, so that scoring starts before the prompt's end."""
    warnings: tuple[str, ...] = ()
    """Codes of `traps`."""


def tokenize_pair(
    pair: PreferencePair, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings
) -> TokenizedRow | SkippedRow:
    """The token ids of both responses, or the reason why the pair cannot be scored.

    Prompt, prompt + chosen and prompt + rejected are tokenised on their own; the responses start where the first
    of them departs from the prompt's tokens. Plain answers get the EOS text unless they end with it.

    Raises:
        ModelError: a conversation, and the tokenizer has no chat template.
    """
    if pair.tokens is not None:
        return _limited(pair, pair.tokens, boundary_moved=False, warnings=(), settings=settings)
    try:
        prompt_ids, chosen_ids, rejected_ids = _three_tokenisations(pair, tokenizer)
    except _TemplateError as error:
        return pair.skipped("malformed", str(error))
    shared = min(_common_prefix(prompt_ids, chosen_ids), _common_prefix(prompt_ids, rejected_ids))
    whole = TokenizedPair(*(TokenizedResponse(tuple(ids), shared) for ids in (chosen_ids, rejected_ids)))
    moved = shared < len(prompt_ids)
    if isinstance(pair.prompt, str):
        warnings = ("W-BOUNDARY",) if moved else ()
    else:
        scores_template = moved or _starts_with_other_text(pair.chosen, chosen_ids[shared:], tokenizer)
        warnings = ("W-GENERATION-PROMPT",) if scores_template else ()
    return _limited(pair, whole, moved, warnings, settings)


def _limited(
    pair: PreferencePair, whole: TokenizedPair, boundary_moved: bool, warnings: tuple[str, ...], settings: TokenSettings
) -> TokenizedRow | SkippedRow:
    """A tokenised pair cut to `max_length`, or the reason why nothing can be scored of it."""
    sides = (whole.chosen, whole.rejected)
    largest = max(max(side.ids, default=0) for side in sides)
    if settings.num_embeddings is not None and largest >= settings.num_embeddings:
        detail = f"token {largest} of the tokenizer, the model has embeddings for {settings.num_embeddings}"
        return pair.skipped("malformed", detail)
    limit, shared = settings.max_length, min(side.first_scored for side in sides)
    if limit is not None and settings.truncation is Truncation.KEEP_START and shared >= limit:
        return pair.skipped("prompt_too_long", f"the prompt has {shared} tokens, --max-length is {limit}")
    responses = [_truncated(side.ids, side.first_scored, settings) for side in sides]
    cut = sum(response.truncated for response in responses)
    if why := _why_not(responses, settings):
        reason, detail = why
        return pair.skipped(reason, detail, ("W-IDENTICAL-TRUNCATED",) if reason == "identical" and cut else ())
    warnings += (("W-TRUNCATED",) if cut else ()) + (("W-BOTH-TRUNCATED",) if cut == 2 else ())
    return TokenizedRow(TokenizedPair(*responses), shared, boundary_moved, warnings)


LOOKED_AT_TOKENS = 8
LOOKED_AT_CHARACTERS = 6


def _starts_with_other_text(answer: Text, scored: list[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the scored tokens of a conversation begin with words of the template rather than of the answer.

    Templates of reasoning models put `<think>` before an answer that the generation prompt does not have.
    """
    content = content_text(answer[0].get("content")) if isinstance(answer, list) and answer else ""
    if not content.strip():
        return False
    begins = str(tokenizer.decode(scored[:LOOKED_AT_TOKENS])).lstrip()[:LOOKED_AT_CHARACTERS]
    return not begins.startswith(content.lstrip()[: len(begins)])


class _TemplateError(Exception):
    """The chat template refuses the conversation."""


def _three_tokenisations(
    pair: PreferencePair, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int], list[int]]:
    prompt, chosen, rejected = pair.prompt, pair.chosen, pair.rejected
    if isinstance(prompt, str):
        ends = str(tokenizer.eos_token or "")
        chosen, rejected = (
            str(answer) if str(answer).endswith(ends) else str(answer) + ends for answer in (chosen, rejected)
        )
        return (
            _text_ids(tokenizer, prompt),
            _text_ids(tokenizer, prompt + chosen),
            _text_ids(tokenizer, prompt + rejected),
        )
    if tokenizer.chat_template is None:
        raise ModelError(
            f"row {pair.index} is a conversation, and the tokenizer has no chat template",
            "a tokenizer with a chat template, as instruction-tuned checkpoints have",
            "use the checkpoint that will be trained, or render the conversations to strings",
        )
    assert isinstance(chosen, list)
    assert isinstance(rejected, list)
    return (
        _conversation_ids(tokenizer, pair, prompt, add_generation_prompt=True),
        _conversation_ids(tokenizer, pair, prompt + chosen, add_generation_prompt=False),
        _conversation_ids(tokenizer, pair, prompt + rejected, add_generation_prompt=False),
    )


def _text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    try:
        return list(tokenizer(text=text)["input_ids"])
    except TypeError as error:  # a lone surrogate is no text that could be encoded
        raise _TemplateError(f"the tokenizer refuses the text: {error}") from error


def _conversation_ids(
    tokenizer: PreTrainedTokenizerBase, pair: PreferencePair, messages: Messages, *, add_generation_prompt: bool
) -> list[int]:
    settings: dict[str, Any] = {"tools": pair.tools, **pair.chat_template_kwargs}
    if add_generation_prompt:
        settings["add_generation_prompt"] = True
    try:
        encoded: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **settings)
    except Exception as error:  # templates are programs: they raise whatever they like
        raise _TemplateError(f"the chat template refuses the conversation: {error}") from error
    ids = list(encoded["input_ids"])
    if not all(isinstance(token, int) for token in ids):
        raise _TemplateError("the chat template arguments change the form of the token ids")
    return ids


def _common_prefix(ids: list[int], other: list[int]) -> int:
    length = 0
    for left, right in zip(ids, other, strict=False):
        if left != right:
            break
        length += 1
    return length


def _truncated(ids: tuple[int, ...], first_scored: int, settings: TokenSettings) -> TokenizedResponse:
    limit, cut = settings.max_length, 0
    if limit is not None and len(ids) > limit:
        if settings.truncation is Truncation.KEEP_START:
            return TokenizedResponse(ids[:limit], max(1, first_scored), truncated=True)
        cut = len(ids) - limit
    return TokenizedResponse(ids[cut:], max(1, first_scored - cut), truncated=cut > 0)


def _why_not(responses: list[TokenizedResponse], settings: TokenSettings) -> tuple[str, str] | None:
    chosen, rejected = responses
    if chosen.ids == rejected.ids:
        cut = " after truncation" if chosen.truncated or rejected.truncated else ""
        return "identical", f"the two responses have the same tokens{cut}"
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if response.num_scored == 0:
            return "empty", f"no token of the {name} response is scored"
        # The last token is scored but never read, so a model of n positions takes n + 1 tokens.
        if settings.position_limit is not None and len(response.ids) - 1 > settings.position_limit:
            detail = (
                f"the {name} sequence has {len(response.ids)} tokens, the model {settings.position_limit} positions"
            )
            return "too_long_for_model", detail
    return None
