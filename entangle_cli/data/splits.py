"""Which split of a data set is meant."""

from __future__ import annotations

from collections.abc import Sequence

from entangle_cli.errors import DataError


def chosen_split(name: str, split: str | None, splits: Sequence[str]) -> str:
    """The split that is meant: the one that was asked for, or the only one.

    Args:
        name: of the data set, for the message.
    Raises:
        DataError: there is no such split, or there are several and none was asked for.
    """
    chosen = split or (splits[0] if len(splits) == 1 else None)
    if chosen is None or chosen not in splits:
        raise DataError(
            f"{name}: " + (f"no split {split!r}" if split else "several splits and none chosen"),
            f"one of {', '.join(splits)}",
            f"name it: --split {splits[0]}" if splits else "name a file instead",
        )
    return chosen
