"""Choice of a data set's split."""

from __future__ import annotations

from collections.abc import Sequence

from entangle_cli.errors import DataError


def chosen_split(name: str, split: str | None, splits: Sequence[str]) -> str:
    """The split to read: the requested one, or the only one.

    Args:
        name: name of the data set, for the message.
    Raises:
        DataError: the requested split does not exist, or there are several and none was requested.
    """
    chosen = split or (splits[0] if len(splits) == 1 else None)
    if chosen is None or chosen not in splits:
        raise DataError(
            f"{name}: " + (f"no split {split!r}" if split else "several splits and none chosen"),
            f"one of {', '.join(splits)}",
            f"choose one, for example --split {splits[0]}" if splits else "give a file instead",
        )
    return chosen
