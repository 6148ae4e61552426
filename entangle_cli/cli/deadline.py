"""`--deadline`: a scan that ends in time, with what it has."""

from __future__ import annotations

import re
import time

from entangle_cli.errors import UnfinishedError, UsageError
from entangle_cli.records.words import counted

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


class Deadline:
    """How long a scan may go on, counted from now.

    Args:
        text: such as `50m`, `1h30m` or `90s`; None for as long as it takes.
    Raises:
        UsageError: not a duration, or none at all.
    """

    def __init__(self, text: str | None) -> None:
        self._text = text
        self._end = None if text is None else time.monotonic() + _seconds(text)

    def check(self, num_pairs: int) -> None:
        """End the scan when the time is up.

        Args:
            num_pairs: that the run holds.
        Raises:
            UnfinishedError: the deadline has passed.
        """
        if self._end is not None and time.monotonic() >= self._end:
            raise UnfinishedError(
                f"--deadline {self._text} is reached with {counted(num_pairs, 'pair')} measured",
                "more time, or fewer rows",
                "give the same command again; it goes on from here",
            )


def _seconds(text: str) -> float:
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise UsageError(f"--deadline {text!r}", "a duration such as 50m, 1h30m or 90s", "write for example 50m")
    return seconds
