"""Selection of the rows that a scan measures."""

from __future__ import annotations

import random
from collections.abc import Sequence

from entangle_cli.errors import UsageError


def selected_rows(
    indices: Sequence[int], limit: int | None, sample: int | None, seed: int, shard: str | None
) -> Sequence[int]:
    """Indices of the selected rows, in the order of the data.

    Args:
        indices: indices of all rows.
        limit, sample, seed, shard: as in `ScanSettings`.
    Raises:
        UsageError: the shard is not I/N with 1 <= I <= N.
    """
    candidates = indices[:limit]
    if sample is not None and sample < len(candidates):
        candidates = sorted(random.Random(seed).sample(candidates, sample))
    number, total = _shard(shard)
    return candidates[number - 1 :: total]


def _shard(text: str | None) -> tuple[int, int]:
    number, _, total = (text or "1/1").partition("/")
    is_number = all(part.isascii() and part.isdecimal() for part in (number, total))
    if not (is_number and 1 <= int(number) <= int(total)):
        raise UsageError(f"--shard {text}", "I/N with I from 1 to N, such as 2/8", "use for example --shard 1/8")
    return int(number), int(total)
