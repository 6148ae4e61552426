"""Loads the tokenizer of a checkpoint, with the chat template and date from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from entangle_cli.data.adapter import is_adapter
from entangle_cli.data.chat_template import parse_date, set_date, template_from, uses_date
from entangle_cli.data.fingerprint import fingerprint
from entangle_cli.data.hub import offline
from entangle_cli.data.model_config import context_of, load_config, position_limit, translated
from entangle_cli.data.origin import Origin, base_origin, find_origin, has_tokenizer, identity_of
from entangle_cli.data.tokenizer_checks import refuse_growing
from entangle_cli.errors import ModelError
from entangle_cli.records.settings import LoadingSettings


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """A tokenizer with its identity."""

    tokenizer: PreTrainedTokenizerBase
    identity: Mapping[str, Any]
    """Differences from the checkpoint's own tokenizer and template, JSON-able; empty if there are none."""
    template_date: str | None
    """Date used by the chat template, as YYYY-MM-DD; None if it uses no date."""
    warnings: Mapping[str, str]
    """Warning code to message."""


def load_tokenizer(origin: Origin, loading: LoadingSettings) -> LoadedTokenizer:
    """Load the tokenizer of a checkpoint, or the one named in the settings.

    Raises:
        ModelError: there is no tokenizer, or it cannot be loaded.
        UsageError: the chat template or the date is invalid.
    """
    identity: dict[str, Any] = {}
    warnings: dict[str, str] = {}
    own = origin
    if loading.tokenizer is not None:
        origin = find_origin(loading.tokenizer, LoadingSettings(), what="tokenizer")
        identity["tokenizer"] = identity_of(origin)
    tokenizer = _loaded(origin, loading)
    if origin is not own and own.folder is not None and has_tokenizer(own.folder):
        warnings |= _other_tokens(tokenizer, _loaded(own, loading))
    if loading.chat_template is not None:
        tokenizer.chat_template = template_from(loading.chat_template)
        identity["chat_template"] = fingerprint(loading.chat_template).sha256
    given = None if loading.template_date is None else parse_date(loading.template_date)
    if not uses_date(tokenizer):
        return LoadedTokenizer(tokenizer, identity, None, warnings)
    today = given or date.today()
    set_date(tokenizer, today)
    warnings["W-TEMPLATE-DATE"] = (
        f"the chat template writes the date into conversations: {today.isoformat()} was used, but training will use "
        "its own date; --template-date sets it"
    )
    return LoadedTokenizer(tokenizer, identity, today.isoformat(), warnings)


def _loaded(origin: Origin, loading: LoadingSettings) -> PreTrainedTokenizerBase:
    _refuse_absent(origin)
    with translated(origin, what="tokenizer"), offline(origin.local_only):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            origin.source,
            revision=origin.revision,
            trust_remote_code=loading.trust_remote_code,
        )
    refuse_growing(origin.name, tokenizer)
    return tokenizer


def _other_tokens(tokenizer: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase) -> dict[str, str]:
    """A warning if a tokenizer assigns different ids to more than `OTHER_TOKENS` of the checkpoint's tokens."""
    own_ids, ids = own.get_vocab(), tokenizer.get_vocab()
    num_different = sum(ids.get(token) != number for token, number in own_ids.items())
    if num_different <= OTHER_TOKENS * len(own_ids):
        return {}
    return {
        "W-OTHER-TOKENIZER": f"--tokenizer: {num_different:,} of the checkpoint's {len(own_ids):,} tokens have other "
        "ids; the model was trained with its own tokenizer"
    }


OTHER_TOKENS = 0.01
"""Share of the vocabulary in which two tokenizers of one model may differ, for example by added special tokens."""


def _refuse_absent(origin: Origin) -> None:
    if origin.folder is not None and not has_tokenizer(origin.folder):
        raise ModelError(
            f"{origin.name}: no tokenizer files (tokenizer.json or tokenizer_config.json)",
            "a checkpoint with its tokenizer",
            "copy the tokenizer's files into the folder, or use another one with --tokenizer NAME",
        )


@dataclass(frozen=True, slots=True)
class TokenizerOfModel:
    """A checkpoint's tokenizer, and the model's limits."""

    tokenizer: PreTrainedTokenizerBase
    warnings: Mapping[str, str]
    """Warning code to message, about loading the tokenizer."""
    position_limit: int | None
    """Number of learned position embeddings; None if positions are computed."""
    context: int | None
    """The model's context length in tokens; None if its config does not state one."""
    num_embeddings: int | None
    """Number of token embeddings, from the model's config; None if unknown."""


def tokenizer_of_model(name: str, loading: LoadingSettings | None = None) -> TokenizerOfModel:
    """Load the tokenizer of a checkpoint or adapter, and the limits of its model. No weights are loaded.

    Raises:
        ModelError: the checkpoint is missing, is not a causal LM, or has no usable tokenizer.
    """
    loading = loading or LoadingSettings()
    origin = find_origin(name, loading)
    whole = origin
    if origin.folder is not None and is_adapter(origin.folder):
        whole = base_origin(origin.folder, loading)
        origin = origin if has_tokenizer(origin.folder) else whole
    config = load_config(whole, replace(loading, tokenizer=None))
    loaded = load_tokenizer(origin, loading)
    num_embeddings = getattr(config.get_text_config(), "vocab_size", None)
    if origin is not whole and num_embeddings is not None:
        num_embeddings = max(num_embeddings, len(loaded.tokenizer))  # loading resizes an adapter's base to this
    return TokenizerOfModel(
        loaded.tokenizer, loaded.warnings, position_limit(config), context_of(config), num_embeddings
    )
