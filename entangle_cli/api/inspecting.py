"""Inspects a data set before anything is computed with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from entangle_cli.records.settings import AUTO_LENGTH, LoadingSettings, ReadingSettings


def inspect(
    data: str | Sequence[str],
    model: str | None = None,
    reading: ReadingSettings | None = None,
    loading: LoadingSettings | None = None,
    *,
    limit: int | None = None,
    max_length: int | Literal["auto"] | None = AUTO_LENGTH,
    truncation: str = "keep_start",
) -> dict[str, Any]:
    """Formats, counts, lengths, traps and the first pairs of a data set, JSON-able.

    Args:
        model: a checkpoint whose tokenizer marks the scored tokens; None for text only, which does not load torch.
        limit: number of rows to read, from the first.
        max_length, truncation: as in `ScanSettings`; used only with a model.
    Raises:
        EntangleError: the data, the model or a setting cannot be used.
    """
    reading = reading or ReadingSettings()
    if model is None:
        from entangle_cli.diagnose.views.inspection import inspect_rows

        return inspect_rows(data, reading, limit)
    from entangle_cli.diagnose.inspect_model import inspect_with_model

    return inspect_with_model(data, model, reading, loading or LoadingSettings(), limit, max_length, truncation)


def suggested_map(columns: Sequence[str]) -> str:
    """Suggested `--map` options for the columns of a data set."""
    from entangle_cli.diagnose.views.first_rows import suggested_map as suggested

    return suggested(columns)
