"""Inspects a data set with the tokenizer of a model, without loading its weights. Needs torch, unlike `inspection`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from entangle_cli.data.checkpoint import quiet_libraries
from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.tokenize import TokenizedRow, tokenize_pair
from entangle_cli.data.tokenizer import tokenizer_of_model
from entangle_cli.diagnose.scan.row_preparation import token_settings
from entangle_cli.diagnose.views.inspection import inspect_rows
from entangle_cli.records.settings import LoadingSettings, ReadingSettings


def inspect_with_model(
    data: str | Sequence[str],
    model: str,
    reading: ReadingSettings,
    loading: LoadingSettings,
    limit: int | None,
    max_length: int | Literal["auto"] | None,
    truncation: str,
) -> dict[str, Any]:
    """The result of `inspect_rows`, with tokens.

    Raises:
        ModelError: the model's tokenizer cannot be used.
        DataError, UsageError: see `inspect_rows`.
    """
    with quiet_libraries():
        loaded = tokenizer_of_model(model, loading)
        tokenizer = loaded.tokenizer
        settings = token_settings(loaded, max_length, truncation, reading.max_row_bytes)

        def tokenize(pair: PreferencePair) -> TokenizedRow | SkippedRow:
            return tokenize_pair(pair, tokenizer, settings)

        def decode(token: int) -> str:
            # Some tokenizers decode a token that is only a space to nothing.
            return str(tokenizer.decode([token]) or tokenizer.convert_ids_to_tokens(token))

        return inspect_rows(data, reading, limit, tokenize, decode, loaded.warnings)
