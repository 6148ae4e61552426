"""What a reader of a run should know beside its verdict: in the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from entangle_cli.records.overview import NextStep, Overview
from entangle_cli.records.words import counted

MORE = " (entangle report --verbose says more)"


def notes(overview: Overview, num_notices: int | None = None) -> Iterator[str]:
    """Rows and pairs without a result, uncertain pairs, and the notices.

    Args:
        num_notices: notices in words; the others are named by their codes. None for all.
    """
    more = "" if num_notices is None else MORE
    if overview.not_measured:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in overview.not_measured.items())
        yield f"{counted(sum(overview.not_measured.values()), 'row')} not measured: {reasons}{more}"
    if overview.without_movement:
        yield f"{counted(overview.without_movement, 'pair')} without a movement: the loss is not finite there"
    if overview.uncertain:
        yield f"{counted(overview.uncertain, 'pair')} uncertain: the sign is within the dtype's rounding error"
    for notice in overview.notices[:num_notices]:
        count = f", {notice.count:,} rows" if notice.count > 1 else ""
        yield f"{notice.message} ({notice.code}{count})"
    if num_notices is not None and (others := overview.notices[num_notices:]):
        codes = ", ".join(notice.code for notice in others)
        yield f"{counted(len(others), 'more warning')}: {codes}{more}"


def first_steps(steps: Sequence[NextStep], count: int) -> Sequence[NextStep]:
    """The first steps and the last, which is the forecast."""
    return steps if len(steps) <= count else [*steps[: count - 1], steps[-1]]
