"""Measures one pair token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from entangle_cli.records.settings import ScanSettings

if TYPE_CHECKING:
    from entangle_cli.diagnose.tokens import TokenReport


class TokensObserver:
    """What a caller may want to know while tokens are measured; every method does nothing."""

    def planned(self, num_tokens: int, num_passes: int, max_tokens: int) -> None:
        """The plan is known: tokens of both answers, passes, and tokens of a pass with padding."""

    @contextmanager
    def measuring(self, num_passes: int) -> Iterator[Callable[[], None]]:  # noqa: ARG002 -- for those who show it
        """Around the passes; yields what is called after each."""
        yield lambda: None


def tokens(
    model: str,
    data: str | Sequence[str],
    row: int,
    settings: ScanSettings | None = None,
    *,
    pair_in_row: int | None = None,
    observer: TokensObserver | None = None,
    with_gram: bool = True,
) -> TokenReport:
    """Inner products between all token gradients of a pair, and the effect of every token on both answers.

    Args:
        row: index of the row in the data.
        pair_in_row: number of the pair in a ranked row; None for the first.
        observer: is called with the plan, and after every pass; see `TokensObserver`.
        with_gram: keep the Gram matrix. Its memory grows with the square of the tokens.
    Raises:
        EntangleError: the model, the data or a setting cannot be used, or the pair does not exist.
    """
    from entangle_cli.diagnose.tokens import pair_tokens

    observer = observer or TokensObserver()
    return pair_tokens(model, data, row, pair_in_row, settings or ScanSettings(), observer, with_gram=with_gram)
