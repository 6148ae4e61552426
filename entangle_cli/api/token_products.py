"""Measures one pair token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from entangle_cli.records.settings import ScanSettings

if TYPE_CHECKING:
    from entangle_cli.diagnose.tokens import TokenReport


def tokens(
    model: str,
    data: str | Sequence[str],
    row: int,
    settings: ScanSettings | None = None,
    *,
    pair_in_row: int | None = None,
    said: Callable[[str], None] = lambda _: None,
) -> TokenReport:
    """Inner products between all token gradients of a pair, and the effect of every token on both answers.

    Args:
        row: index of the row in the data.
        pair_in_row: number of the pair in a ranked row; None for the first.
        said: called with a line about the current phase.
    Raises:
        EntangleError: the model, the data or a setting cannot be used, or the pair does not exist.
    """
    from entangle_cli.diagnose.tokens import pair_tokens

    return pair_tokens(model, data, row, pair_in_row, settings or ScanSettings(), said)
