"""Pairs to token ids, boundary and truncation, equal to TRL 1.16's DPOTrainer and its collator."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from entangle_cli.data import rendering
from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.traps import content_text, text_of
from entangle_cli.data.trl_rows import Messages, Text
from entangle_cli.errors import EntangleError, ModelError
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse, shared_prefix
from entangle_cli.records.settings import LARGEST_ROW, Truncation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZATION = "trl-1.16"
"""Whose rules these are; stands in every manifest."""


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """What decides which tokens of a pair are seen and scored."""

    max_length: int | None = 1024
    """Tokens of prompt and response together; None for no limit."""
    truncation: Truncation = Truncation.KEEP_START
    position_limit: int | None = None
    """Positions that the model has embeddings for; None where positions are computed."""
    context: int | None = None
    """Positions that the model was made for; None where its config does not say."""
    num_embeddings: int | None = None
    """Tokens that the model has embeddings for; None for as many as the tokenizer has."""
    max_characters: int = LARGEST_ROW
    """Of the longest text that is tokenised, which a chat template may have made."""


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """A pair's tokens, with what the run document says of them."""

    pair: TokenizedPair
    prompt_tokens: int
    """Tokens before the scored ones that both sequences keep."""
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
        ModelError: a conversation, and the tokenizer has no chat template, or one that does not end in time.
    """
    if pair.tokens is not None:
        return _limited(pair, pair.tokens, boundary_moved=False, warnings=(), settings=settings)
    try:
        prompt_ids, chosen_ids, rejected_ids = _three_tokenisations(pair, tokenizer, settings.max_characters)
    except _TemplateError as error:
        return pair.skipped("malformed", str(error))
    shared = min(shared_prefix(prompt_ids, chosen_ids), shared_prefix(prompt_ids, rejected_ids))
    whole = TokenizedPair(*(TokenizedResponse(tuple(ids), shared) for ids in (chosen_ids, rejected_ids)))
    moved = shared < len(prompt_ids)
    return _limited(pair, whole, moved, tuple(_traps_of_tokens(pair, whole, tokenizer, moved=moved)), settings)


def _traps_of_tokens(
    pair: PreferencePair, whole: TokenizedPair, tokenizer: PreTrainedTokenizerBase, *, moved: bool
) -> Iterator[str]:
    """The codes of what goes wrong between text and tokens."""
    sides = (whole.chosen, whole.rejected)
    if isinstance(pair.prompt, str):
        if moved:
            yield "W-BOUNDARY"
    elif not EXPLAINED_STARTS & set(pair.warnings):
        scored = list(whole.chosen.ids[whole.chosen.first_scored :])
        if moved or _starts_with_other_text(pair.chosen, scored, tokenizer):
            yield "W-GENERATION-PROMPT"
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and any(side.ids[:2] == (bos, bos) and len(side.ids) > 2 for side in sides):
        yield "W-BOS-DOUBLED"
    if eos is not None and any(_ends_twice(side.ids, eos, tokenizer) for side in sides):
        yield "W-EOS-DOUBLED"


EXPLAINED_STARTS = {"W-ANSWER-ROLE", "W-PROMPT-REPEATED"}
"""Codes of answers that begin with somebody else's message, which explains what the template puts before it."""


def _ends_twice(ids: tuple[int, ...], eos: int, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a sequence ends with two end-of-sequence tokens, perhaps with white space between them."""
    if len(ids) < 2 or ids[-1] != eos:
        return False
    if ids[-2] == eos:
        return True
    return len(ids) > 2 and ids[-3] == eos and not str(tokenizer.decode([ids[-2]])).strip()


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
    cuts = [0 if limit is None else max(0, len(side.ids) - limit) for side in sides]
    responses = [_truncated(side, cut, settings.truncation) for side, cut in zip(sides, cuts, strict=True)]
    num_truncated = sum(response.truncated for response in responses)
    if why := _why_not(responses, settings):
        reason, detail = why
        is_cut = reason == "identical" and num_truncated
        return pair.skipped(reason, detail, ("W-IDENTICAL-TRUNCATED",) if is_cut else ())
    warnings += (("W-TRUNCATED",) if num_truncated else ()) + (("W-BOTH-TRUNCATED",) if num_truncated == 2 else ())
    prompt_tokens = shared
    if settings.truncation is Truncation.KEEP_END and any(cuts):
        prompt_tokens = max(0, shared - max(cuts))
        warnings += ("W-PROMPT-TRUNCATED",)
    if settings.context is not None and max(len(response.ids) for response in responses) > settings.context:
        warnings += ("W-CONTEXT",)
    return TokenizedRow(TokenizedPair(*responses), prompt_tokens, boundary_moved, warnings)


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
    """The tokenizer or the chat template refuses the text."""


def _three_tokenisations(
    pair: PreferencePair, tokenizer: PreTrainedTokenizerBase, max_characters: int
) -> tuple[list[int], list[int], list[int]]:
    prompt, chosen, rejected = pair.prompt, pair.chosen, pair.rejected
    if isinstance(prompt, str):
        ends = str(tokenizer.eos_token or "")
        chosen, rejected = (
            str(answer) if str(answer).endswith(ends) else str(answer) + ends for answer in (chosen, rejected)
        )
        return (
            _text_ids(tokenizer, prompt, max_characters),
            _text_ids(tokenizer, prompt + chosen, max_characters),
            _text_ids(tokenizer, prompt + rejected, max_characters),
        )
    if tokenizer.chat_template is None:
        raise ModelError(
            f"row {pair.index} is a conversation, and the tokenizer has no chat template",
            "a tokenizer with a chat template, as instruction-tuned checkpoints have",
            "give the template that training will use: --chat-template FILE",
        )
    assert isinstance(chosen, list)
    assert isinstance(rejected, list)
    try:
        with rendering.isolated_templates(max_characters):
            return (
                _conversation_ids(tokenizer, pair, prompt, add_generation_prompt=True),
                _conversation_ids(tokenizer, pair, prompt + chosen, add_generation_prompt=False),
                _conversation_ids(tokenizer, pair, prompt + rejected, add_generation_prompt=False),
            )
    except rendering.TemplateTooLarge as error:
        raise _TemplateError(str(error)) from error
    except rendering.TemplateUnusable as error:
        raise ModelError(
            f"row {pair.index}: {error}",
            "a chat template that renders a conversation in milliseconds",
            "give another template: --chat-template FILE",
        ) from error


@contextmanager
def _refusing(sentence: str, text: Callable[[], str]) -> Iterator[None]:
    """What tokenizers and templates raise as the reason why a row is skipped.

    Templates are programs and raise whatever they like. A panic in the tokenizers library's Rust is no Exception.
    """
    try:
        yield
    except (
        KeyboardInterrupt,
        SystemExit,
        MemoryError,
        EntangleError,
        rendering.TemplateTooLarge,
        rendering.TemplateUnusable,
    ):
        raise
    except BaseException as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise _TemplateError(_half_an_emoji(text()) or f"{sentence}: {reason}") from error


def _text_ids(tokenizer: PreTrainedTokenizerBase, text: str, max_characters: int) -> list[int]:
    if len(text) > max_characters:
        raise _TemplateError(f"a text of {len(text):,} characters; --max-row-bytes raises the limit")
    with _refusing("the tokenizer refuses the text", lambda: text):
        return list(tokenizer(text=text)["input_ids"])


SURROGATE = re.compile("[\ud800-\udfff]")


def _half_an_emoji(text: str) -> str | None:
    """What is wrong with a text that UTF-8 cannot hold; None for any other."""
    found = SURROGATE.search(text)
    if found is None:
        return None
    return f"half an emoji at character {found.start()}: \\u{ord(found[0]):x} alone is no text; repair the row's source"


PADDING = {"padding", "tokenizer_kwargs"}
"""Arguments of `apply_chat_template` that reach the tokenizer and can make a row of any length."""


def _conversation_ids(
    tokenizer: PreTrainedTokenizerBase,
    pair: PreferencePair,
    messages: Messages,
    *,
    add_generation_prompt: bool,
) -> list[int]:
    if unfit := sorted(PADDING & pair.chat_template_kwargs.keys()):
        raise _TemplateError(f"chat_template_kwargs has {unfit[0]}, which changes the tokens of a row")
    settings: dict[str, Any] = {"tools": pair.tools, **pair.chat_template_kwargs}
    if add_generation_prompt:
        settings["add_generation_prompt"] = True
    with _refusing("the chat template refuses the conversation", lambda: text_of(messages)):
        encoded: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **settings)
    ids = list(encoded["input_ids"])
    if not all(isinstance(token, int) for token in ids):
        raise _TemplateError("the chat template arguments change the form of the token ids")
    return ids


def _truncated(whole: TokenizedResponse, cut: int, truncation: Truncation) -> TokenizedResponse:
    """A response without `cut` tokens of its sequence; truncated where a scored one is among them."""
    if truncation is Truncation.KEEP_START:
        kept = TokenizedResponse(whole.ids[: len(whole.ids) - cut], max(1, whole.first_scored))
    else:
        kept = TokenizedResponse(whole.ids[cut:], max(1, whole.first_scored - cut))
    # A sequence without a prompt never has its first token scored, cut or not.
    num_scored = len(whole.ids) - max(1, whole.first_scored)
    return replace(kept, truncated=kept.num_scored < num_scored)


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
