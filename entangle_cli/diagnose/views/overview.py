"""What every output of a run leads with: verdict, shares, reasons, worst pairs, notices and next steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from entangle_cli.analysis.losses.table import find_loss
from entangle_cli.analysis.reasons import pair_reason
from entangle_cli.analysis.statistics import share_interval
from entangle_cli.diagnose.views.commands import CommandNames
from entangle_cli.diagnose.views.movements import describe_loss
from entangle_cli.records.overview import NextStep, Overview, Reason, Share
from entangle_cli.records.pair import WRONG_WAY, Movement
from entangle_cli.records.run import Notice, Run
from entangle_cli.records.settings import LossSettings
from entangle_cli.records.words import counted, percent

PREDICTOR_WORDS = "each pair on its own first step, plain gradient descent"
"""What `pair-sgd` is called on screen."""


ORDER = (Movement.SEPARATES, Movement.BOTH_FALL, Movement.BOTH_RISE, Movement.REVERSED, Movement.STILL)


def overview(
    run: Run,
    summary: Mapping[str, Any],
    reasons: Sequence[Reason],
    worst: Sequence[Mapping[str, Any]],
    notices: Sequence[Notice],
    steps: Sequence[NextStep],
) -> Overview:
    """The run in short.

    Args:
        summary: `movements.run_summary` of it.
        worst: rows with the smallest slack, smallest first.
    """
    pairs, counts = summary["pairs"], movement_counts(summary)
    wrong = num_wrong(counts)
    names = CommandNames(run)
    missing = (run.manifest.get("plan", {}).get("num_selected") or 0) - summary["rows"]
    return Overview(
        model=run.identity.model_name,
        data=run.identity.data_name,
        scope=scope_words(run, summary),
        loss=_loss_title(run.loss),
        loss_words=describe_loss(run.loss),
        is_partial=run.status != "complete",
        place=None if run.folder is None else str(run.folder),
        run_words=names.seen,
        folder_words=names.run,
        forecast=names.forecast,
        pairs=pairs,
        wrong=wrong,
        verdict=verdict(counts, pairs),
        consequence=consequence(counts),
        interval=share_interval(wrong, pairs) if is_random_sample(run) else None,
        shares=[
            Share(movement, count, count / pairs)
            for movement, count in counts.items()
            if pairs and (count or movement is Movement.SEPARATES)
        ],
        without_movement=summary["without_movement"],
        uncertain=summary["uncertain"]["count"],
        data_sets=[
            (found["name"], found["pairs"], num_wrong(movement_counts(found))) for found in summary["data_sets"]
        ],
        reasons=reasons,
        worst=[{**row, "why": pair_reason(row)} for row in worst if row["movement"] in WRONG_WAY],
        notices=notices,
        not_measured=summary["reasons"],
        rows_missing=max(0, missing) if run.status != "complete" else 0,
        steps=steps,
    )


def _loss_title(loss: LossSettings) -> str:
    """A loss by its title; with its numbers where they are not the default ones."""
    title = find_loss(loss.name).title
    return title if loss == LossSettings(loss.name) else f"{title} ({describe_loss(loss)})"


def movement_counts(summary: Mapping[str, Any]) -> dict[Movement, int]:
    """Number of pairs with each movement, in a run or one of its data sets."""
    return {movement: summary["movements"][movement.value]["count"] for movement in ORDER}


def num_wrong(counts: Mapping[Movement, int]) -> int:
    """Number of pairs that go the wrong way."""
    return sum(counts[movement] for movement in WRONG_WAY)


def verdict(counts: Mapping[Movement, int], pairs: int) -> str:
    """One sentence on how many pairs go the wrong way."""
    wrong = num_wrong(counts)
    if not pairs:
        return "No pair was measured."
    if wrong:
        verb = "goes" if wrong == 1 else "go"
        share = percent(wrong / pairs)
        return f"{wrong:,} of {counted(pairs, 'pair')} ({share}) {verb} the wrong way, each on its own first step."
    if counts[Movement.SEPARATES] == pairs:
        who = "The only pair separates" if pairs == 1 else f"All {pairs:,} pairs separate"
        return f"{who}, each on its own first step." if pairs > 1 else f"{who} on its own first step."
    return f"No pair of {pairs:,} goes the wrong way, each on its own first step."


def consequence(counts: Mapping[Movement, int]) -> str:
    """What the pairs that go the wrong way would do to the answers; empty where none does."""
    falls = counts[Movement.BOTH_FALL] + counts[Movement.REVERSED]
    rises = counts[Movement.BOTH_RISE] + counts[Movement.REVERSED]
    parts = [f"{falls:,} would lower the chosen answer"] if falls else []
    parts += [f"{rises:,} would raise the rejected one"] if rises else []
    return ", ".join(parts)


def is_random_sample(run: Run) -> bool:
    """Whether the measured rows were drawn at random from more rows. Only then does an interval mean something."""
    sample, num_rows = run.identity.settings.get("sample"), run.identity.num_rows
    return run.identity.is_until_decided or (sample is not None and (num_rows is None or sample < num_rows))


def scope_words(run: Run, summary: Mapping[str, Any]) -> str:
    """How many pairs were measured, and which part of the data they are, such as `the first 150 of 400 rows`."""
    settings, num_rows = run.identity.settings, run.identity.num_rows
    rows = summary["rows"]
    which = ", drawn at random" if is_random_sample(run) else ""
    if shard := settings.get("shard"):
        which += f", part {shard}"
    of_all = f" of {num_rows:,}" if num_rows is not None and num_rows != rows else ""
    words = f"{rows:,}{of_all} {'row' if rows == 1 and not of_all else 'rows'}{which}"
    if of_all and not which and settings.get("limit") is not None:
        words = f"the first {words}"
    return words if summary["pairs"] == rows else f"{counted(summary['pairs'], 'pair')} of {words}"
