"""One pair, token by token."""

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
    """The inner products of every two tokens' gradients of a pair, and what each token pushes.

    Args:
        row: its index in the data.
        pair_in_row: which pair of a ranked row; None for the first.
        said: told a line about what is done at present.
    Raises:
        EntangleError: the model, the data or a setting cannot be used, or there is no such pair.
    """
    from entangle_cli.diagnose.tokens import pair_tokens

    return pair_tokens(model, data, row, pair_in_row, settings or ScanSettings(), said)
