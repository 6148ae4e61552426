"""The tokenizer of a checkpoint, with the chat template and the date that the settings ask for."""

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
    """A tokenizer, and what decides how it reads."""

    tokenizer: PreTrainedTokenizerBase
    identity: Mapping[str, Any]
    """What tells it from the checkpoint's own, JSON-able; empty for that one."""
    template_date: str | None
    """The day that the chat template takes for today, as YYYY-MM-DD; None where it asks for none."""
    warnings: Mapping[str, str]
    """Code to sentence."""


def load_tokenizer(origin: Origin, loading: LoadingSettings) -> LoadedTokenizer:
    """The tokenizer of a checkpoint, or the one that the settings name.

    Raises:
        ModelError: no tokenizer, or one that cannot be loaded.
        UsageError: a chat template or a date that cannot be used.
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
        f"the chat template writes the date into conversations: {today.isoformat()} was used, training will use its "
        "own day; --template-date sets it"
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
    """A warning where a tokenizer gives other numbers to the checkpoint's tokens; a few added ones may differ."""
    known, its = own.get_vocab(), tokenizer.get_vocab()
    other = sum(its.get(token) != number for token, number in known.items())
    if other <= OTHER_TOKENS * len(known):
        return {}
    return {
        "W-OTHER-TOKENIZER": f"--tokenizer: {other:,} of the checkpoint's {len(known):,} tokens are others there; the "
        "model was trained on its own"
    }


OTHER_TOKENS = 0.01
"""Share of the vocabulary in which two tokenizers of one model may differ, as by special tokens that were added."""


def _refuse_absent(origin: Origin) -> None:
    if origin.folder is not None and not has_tokenizer(origin.folder):
        raise ModelError(
            f"{origin.name}: no tokenizer files (tokenizer.json or tokenizer_config.json)",
            "a checkpoint with its tokenizer",
            "copy the tokenizer's files into the folder, or name another: --tokenizer NAME",
        )


@dataclass(frozen=True, slots=True)
class TokenizerOfModel:
    """A checkpoint's tokenizer, and the model's limits."""

    tokenizer: PreTrainedTokenizerBase
    warnings: Mapping[str, str]
    """Code to sentence: what a user should know about how it was loaded."""
    position_limit: int | None
    """Positions that have learned embeddings; None where positions are computed."""
    context: int | None
    """Tokens of the longest sequence that the model was made for."""
    num_embeddings: int | None
    """Tokens that the model has embeddings for, as its config says."""


def tokenizer_of_model(name: str, loading: LoadingSettings | None = None) -> TokenizerOfModel:
    """The tokenizer of a checkpoint or an adapter, and what its model can read; no weights are loaded.

    Raises:
        ModelError: not there, not a causal LM, or without a usable tokenizer.
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
        num_embeddings = max(num_embeddings, len(loaded.tokenizer))  # an adapter's base is resized to it
    return TokenizerOfModel(
        loaded.tokenizer, loaded.warnings, position_limit(config), context_of(config), num_embeddings
    )
