"""Tokenises pairs, with prompt boundary and truncation as in TRL 1.16's DPOTrainer and its collator."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from entangle_cli.data import rendering
from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.token_limits import (
    TokenSettings,
    most_tokens,
    not_scored,
    num_cut,
    truncated_by,
    unknown_token,
    unusable_whole,
)
from entangle_cli.data.traps import content_text, text_of
from entangle_cli.data.trl_rows import Messages, Text
from entangle_cli.errors import EntangleError, ModelError
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse, shared_prefix
from entangle_cli.records.settings import Truncation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZATION = "trl-1.16"
"""Version of the rules, stored in every manifest."""


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """A pair's tokens, with their fields of the run document."""

    pair: TokenizedPair
    prompt_tokens: int
    """Tokens kept before the scored ones, in both sequences."""
    boundary_moved: bool
    """The prompt's tokens are not a prefix of those of prompt and answer, so scoring starts before the prompt's end."""
    warnings: tuple[str, ...] = ()
    """Codes of `traps`."""


def tokenize_pair(
    pair: PreferencePair, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings
) -> TokenizedRow | SkippedRow:
    """The token ids of both responses, or the reason why the pair cannot be scored.

    Prompt, prompt + chosen and prompt + rejected are tokenised separately. Both responses start at the first position
    where one of them differs from the prompt's tokens. Plain answers get the EOS text unless they already end with it.

    Raises:
        ModelError: the pair is a conversation and the tokenizer has no chat template, or the template takes too long.
    """
    if pair.tokens is not None:
        return _limited(pair, pair.tokens, boundary_moved=False, warnings=(), settings=settings)
    try:
        prompt_ids, chosen_ids, rejected_ids = _tokenisations(
            pair, (pair.chosen, pair.rejected), tokenizer, settings.max_characters
        )
    except _TemplateError as error:
        return pair.skipped("malformed", str(error))
    shared = min(shared_prefix(prompt_ids, chosen_ids), shared_prefix(prompt_ids, rejected_ids))
    whole = TokenizedPair(*(TokenizedResponse(tuple(ids), shared) for ids in (chosen_ids, rejected_ids)))
    moved = shared < len(prompt_ids)
    return _limited(pair, whole, moved, tuple(_traps_of_tokens(pair, whole, tokenizer, moved=moved)), settings)


def tokenize_answer(
    pair: PreferencePair, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings
) -> TokenizedResponse | SkippedRow:
    """The token ids of one answer by the rules of `tokenize_pair`, or the reason why it cannot be scored.

    Args:
        pair: `chosen` is the answer.
    Raises:
        ModelError: as in `tokenize_pair`.
    """
    try:
        prompt_ids, answer_ids = _tokenisations(pair, (pair.chosen,), tokenizer, settings.max_characters)
    except _TemplateError as error:
        return pair.skipped("malformed", str(error))
    return _limited_answer(pair, TokenizedResponse(tuple(answer_ids), shared_prefix(prompt_ids, answer_ids)), settings)


def tokenize_prompt(
    pair: PreferencePair, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings
) -> tuple[int, ...] | SkippedRow:
    """The token ids of a pair's prompt, with room for an answer within the limits, or the reason why not.

    Raises:
        ModelError: as in `tokenize_pair`.
    """
    try:
        (prompt_ids,) = _tokenisations(pair, (), tokenizer, settings.max_characters)
    except _TemplateError as error:
        return pair.skipped("malformed", str(error))
    ids = tuple(prompt_ids)
    if not ids:
        return pair.skipped("empty", "a prompt without tokens, which no model can answer")
    room = most_tokens(settings)
    if room is not None and len(ids) >= room:
        return pair.skipped("prompt_too_long", f"the prompt has {len(ids)} tokens, and an answer must end by {room}")
    return unknown_token(pair, (ids,), settings) or ids


def _limited_answer(
    pair: PreferencePair, whole: TokenizedResponse, settings: TokenSettings
) -> TokenizedResponse | SkippedRow:
    if unusable := unusable_whole(pair, (whole,), settings):
        return unusable
    answer = truncated_by(whole, num_cut(whole, settings), settings.truncation)
    if why := not_scored({"probe": answer}, settings):
        return pair.skipped(*why)
    return answer


def _traps_of_tokens(
    pair: PreferencePair, whole: TokenizedPair, tokenizer: PreTrainedTokenizerBase, *, moved: bool
) -> Iterator[str]:
    """Warning codes for problems between text and tokens."""
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
"""Codes for answers that start with a non-assistant message. For these, other text before the answer is expected."""


def _ends_twice(ids: tuple[int, ...], eos: int, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a sequence ends with two end-of-sequence tokens, possibly with white space between them."""
    if len(ids) < 2 or ids[-1] != eos:
        return False
    if ids[-2] == eos:
        return True
    return len(ids) > 2 and ids[-3] == eos and not str(tokenizer.decode([ids[-2]])).strip()


def _limited(
    pair: PreferencePair, whole: TokenizedPair, boundary_moved: bool, warnings: tuple[str, ...], settings: TokenSettings
) -> TokenizedRow | SkippedRow:
    """A tokenised pair cut to `max_length`, or the reason why it cannot be scored."""
    sides = (whole.chosen, whole.rejected)
    if unusable := unusable_whole(pair, sides, settings):
        return unusable
    shared = min(side.first_scored for side in sides)
    cuts = [num_cut(side, settings) for side in sides]
    responses = [truncated_by(side, cut, settings.truncation) for side, cut in zip(sides, cuts, strict=True)]
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
    """Whether the scored tokens of a conversation start with text from the template instead of the answer.

    Templates of reasoning models insert `<think>` before an answer, although their generation prompt has none.
    """
    content = content_text(answer[0].get("content")) if isinstance(answer, list) and answer else ""
    if not content.strip():
        return False
    start = str(tokenizer.decode(scored[:LOOKED_AT_TOKENS])).lstrip()[:LOOKED_AT_CHARACTERS]
    return not start.startswith(content.lstrip()[: len(start)])


class _TemplateError(Exception):
    """The tokenizer or the chat template rejects the text."""


def _tokenisations(
    pair: PreferencePair, answers: Sequence[Text], tokenizer: PreTrainedTokenizerBase, max_characters: int
) -> list[list[int]]:
    """The token ids of a pair's prompt, and of the prompt with each answer."""
    prompt = pair.prompt
    if isinstance(prompt, str):
        eos = str(tokenizer.eos_token or "")
        texts = (str(answer) if str(answer).endswith(eos) else str(answer) + eos for answer in answers)
        return [_text_ids(tokenizer, prompt + text, max_characters) for text in ("", *texts)]
    if tokenizer.chat_template is None:
        raise ModelError(
            f"row {pair.index} is a conversation, and the tokenizer has no chat template",
            "a tokenizer with a chat template, such as that of an instruction-tuned checkpoint",
            "give the template used in training with --chat-template FILE",
        )
    try:
        with rendering.isolated_templates(max_characters):
            asked = _conversation_ids(tokenizer, pair, prompt, add_generation_prompt=True)
            conversations = [prompt + answer for answer in answers if isinstance(answer, list)]
            return [
                asked,
                *(_conversation_ids(tokenizer, pair, one, add_generation_prompt=False) for one in conversations),
            ]
    except rendering.TemplateTooLarge as error:
        raise _TemplateError(str(error)) from error
    except rendering.TemplateUnusable as error:
        raise ModelError(
            f"row {pair.index}: {error}",
            "a chat template that renders a conversation in milliseconds",
            "use another template with --chat-template FILE",
        ) from error


@contextmanager
def _refusing(sentence: str, text: Callable[[], str]) -> Iterator[None]:
    """Convert any error of a tokenizer or template to `_TemplateError`, a reason to skip the row.

    Templates are programs and can raise any error. A Rust panic in the tokenizers library is not an `Exception`.
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
    with _refusing("the tokenizer rejects the text", lambda: text):
        return list(tokenizer(text=text)["input_ids"])


SURROGATE = re.compile("[\ud800-\udfff]")


def _half_an_emoji(text: str) -> str | None:
    """The problem of a text that UTF-8 cannot encode; None for any other text."""
    surrogate = SURROGATE.search(text)
    if surrogate is None:
        return None
    return (
        f"half an emoji at character {surrogate.start()}: \\u{ord(surrogate[0]):x} alone is not a valid character; fix "
        "the row in the data"
    )


PADDING = {"padding", "tokenizer_kwargs"}
"""Arguments that `apply_chat_template` passes to the tokenizer. They could pad a row to any length."""


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
    with _refusing("the chat template rejects the conversation", lambda: text_of(messages)):
        encoded: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **settings)
    ids = list(encoded["input_ids"])
    if not all(isinstance(token, int) for token in ids):
        raise _TemplateError("chat_template_kwargs change the type of the token ids")
    return ids


def _why_not(responses: list[TokenizedResponse], settings: TokenSettings) -> tuple[str, str] | None:
    chosen, rejected = responses
    if chosen.ids == rejected.ids:
        cut = " after truncation" if chosen.truncated or rejected.truncated else ""
        return "identical", f"the two responses have the same tokens{cut}"
    return not_scored({"chosen": chosen, "rejected": rejected}, settings)
