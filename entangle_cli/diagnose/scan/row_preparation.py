"""Turns raw rows into tokenised pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeAlias

from entangle_cli.data.pairs import PairReader, PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.data.token_limits import TokenSettings
from entangle_cli.data.tokenize import tokenize_pair
from entangle_cli.data.tokenizer import TokenizerOfModel
from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.records.settings import AUTO_LENGTH, DEFAULT_LENGTH, ScanSettings, Truncation

Window: TypeAlias = list[PreparedRow | SkippedRow]
"""Prepared pairs, in the order of the data."""

Preparation: TypeAlias = Callable[[Iterable[RawRow]], Iterator[Window]]
"""Returns the pairs of each row, in order."""


class RowPreparation:
    """Reads the pairs of rows and tokenises them, in this process. Calling it is a `Preparation`.

    Args:
        pairs: extracts the pairs from rows.
        tokenizer: the tokenizer, with the limits of its model.
        settings: settings of the scan.
    """

    def __init__(self, pairs: PairReader, tokenizer: TokenizerOfModel, settings: ScanSettings) -> None:
        self._pairs = pairs
        self._tokenizer = tokenizer.tokenizer
        self._settings = token_settings(
            tokenizer, settings.max_length, settings.truncation, settings.reading.max_row_bytes
        )

    def __call__(self, rows: Iterable[RawRow]) -> Iterator[Window]:
        """The pairs of each row, one row at a time.

        Raises:
            ModelError: a row is a conversation and the tokenizer has no chat template.
        """
        for row in rows:
            yield [pair if isinstance(pair, SkippedRow) else self._tokenized(pair) for pair in self._pairs.read(row)]

    def _tokenized(self, pair: PreferencePair) -> PreparedRow | SkippedRow:
        tokens = tokenize_pair(pair, self._tokenizer, self._settings)
        return tokens if isinstance(tokens, SkippedRow) else PreparedRow(pair, tokens)


def token_settings(
    tokenizer: TokenizerOfModel, max_length: int | Literal["auto"] | None, truncation: str, max_row_bytes: int
) -> TokenSettings:
    """Token limits for every command that reads pairs with a model."""
    return TokenSettings(
        resolved_length(max_length, tokenizer.context),
        Truncation(truncation),
        tokenizer.position_limit,
        tokenizer.context,
        tokenizer.num_embeddings,
        max_characters=max_row_bytes,
    )


def resolved_length(max_length: int | Literal["auto"] | None, context: int | None) -> int | None:
    """The length limit in tokens. `auto` is TRL's default, or the model's context if that is shorter."""
    return max_length if max_length != AUTO_LENGTH else min(DEFAULT_LENGTH, context or DEFAULT_LENGTH)
