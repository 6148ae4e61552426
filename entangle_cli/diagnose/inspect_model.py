"""A data set looked at through the tokenizer of a model, without its weights; unlike `inspection` it needs torch."""

from __future__ import annotations

from typing import Any

from entangle_cli.data.checkpoint import load_tokenizer, quiet_libraries
from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.tokenize import TokenizedRow, TokenSettings, tokenize_pair
from entangle_cli.diagnose.inspection import inspect_rows
from entangle_cli.records import LoadingSettings, ReadingSettings


def inspect_with_model(
    data: str,
    model: str,
    reading: ReadingSettings,
    loading: LoadingSettings,
    limit: int | None,
    max_length: int | None,
) -> dict[str, Any]:
    """What `inspect_rows` gives, with tokens.

    Raises:
        ModelError: the model's tokenizer cannot be used.
        DataError, UsageError: see `inspect_rows`.
    """
    with quiet_libraries():
        tokenizer, position_limit, num_embeddings = load_tokenizer(model, loading)
        settings = TokenSettings(max_length, position_limit=position_limit, num_embeddings=num_embeddings)

        def tokenize(pair: PreferencePair) -> TokenizedRow | SkippedRow:
            return tokenize_pair(pair, tokenizer, settings)

        def decode(token: int) -> str:
            # Ranks, a token that is only a space decodes to nothing.
            return str(tokenizer.decode([token]) or tokenizer.convert_ids_to_tokens(token))

        return inspect_rows(data, reading, limit, tokenize, decode)
