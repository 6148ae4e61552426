"""The verdict of rules on a run, with or without a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from entangle_cli.api.run import Run, worst_places
from entangle_cli.errors import NothingToJudgeError, UsageError
from entangle_cli.records.columns import rows_of, taken
from entangle_cli.records.pair import Status

if TYPE_CHECKING:
    from entangle_cli.analysis.gate import Verdict
    from entangle_cli.analysis.ignored import Ignored
    from entangle_cli.analysis.rules import Rule


def gate(
    run: Run,
    rules: Sequence[str | Rule],
    *,
    baseline: Run | None = None,
    only_new: bool = False,
    ignored: Ignored | None = None,
    min_pairs: int = 1,
    max_skipped: float = 1.0,
    origins: Mapping[str, str] | None = None,
) -> Verdict:
    """The verdict of rules on a complete run.

    Args:
        rules: such as `both_fall_rate > 0.1`; all must pass.
        baseline: what rules ending in `_increase` compare with.
        only_new: whether pairs that the baseline measured are left out.
        ignored: pairs that are left out, each for a reason and until a day.
        min_pairs: measured pairs that are needed.
        max_skipped: largest share of the data's rows that may be without a measurement.
        origins: options that were not set on the command line, to where they were set; they are named in the verdict.
    Returns:
        The verdict, with a result for every rule and what part of the data was judged.
    Raises:
        UsageError: a rule that cannot be, or a baseline of another model, settings or loss.
        NothingToJudgeError: the run or the baseline is not complete.
    """
    from entangle_cli.analysis.gate import Limits, judge
    from entangle_cli.diagnose.views.baseline import refuse_baseline
    from entangle_cli.diagnose.views.whole_run import scope_of

    parsed = parsed_rules(rules)
    if baseline is None:
        refuse_without_baseline(parsed, only_new=only_new)
    origins = origins or {}
    refuse_partial(run)
    before = None
    if baseline is not None:
        refuse_partial(baseline)
        refuse_baseline(run, baseline)
        before = baseline.all_columns
    columns, left_out = _left_in(run, baseline, ignored, origins, only_new=only_new)
    verdict = judge(parsed, columns, before, Limits(min_pairs, max_skipped), scope_of(run, left_out, origins))
    return replace(verdict, worst=list(rows_of(taken(columns, worst_places(columns, NUM_WORST)))))


NUM_WORST = 10
"""Pairs that a verdict names."""


def parsed_rules(rules: Sequence[str | Rule], origin: str | None = None) -> list[Rule]:
    """Rules as they are judged.

    Args:
        origin: where they were set; None for the command line.
    Raises:
        UsageError: one that cannot be.
    """
    from entangle_cli.analysis.rules import COMMAND_LINE, parse_rule

    return [parse_rule(rule, origin or COMMAND_LINE) if isinstance(rule, str) else rule for rule in rules]


def refuse_without_baseline(rules: Sequence[Rule], *, only_new: bool = False) -> None:
    """Refuse what needs a baseline where there is none.

    Raises:
        UsageError: `only_new`, or a rule that ends in _increase.
    """
    from entangle_cli.analysis.rules import is_relative

    needed = ["--only-new"] * only_new + [f"--fail-if {rule.text!r}" for rule in rules if is_relative(rule)]
    if needed:
        raise UsageError(
            f"{needed[0]} without a baseline", "a run to compare with", "give --baseline RUN to entangle gate"
        )


def refuse_partial(run: Run) -> None:
    """Refuse a run that is no whole.

    Raises:
        NothingToJudgeError: the run is partial, or was measured until its own rules were decided.
    """
    if run.identity.is_until_decided:
        raise NothingToJudgeError(
            f"{run.place} was measured until its own rules were decided",
            "a run whose size does not depend on what was seen",
            "take that scan's verdict, or scan without --until-decided",
        )
    if run.status != "complete":
        raise NothingToJudgeError(
            f"{run.place} is not complete: {len(run):,} rows were measured before it ended",
            "a complete run; a part is no sample of the whole",
            "give the scan command again, it goes on from there",
        )


def _left_in(
    run: Run, baseline: Run | None, ignored: Ignored | None, origins: Mapping[str, str], *, only_new: bool
) -> tuple[Mapping[str, Any], tuple[Any, ...]]:
    """The columns that are judged, and what left out the others."""
    from entangle_cli.analysis.gate import Reduction

    columns, left_out = run.all_columns, []
    if baseline is not None and only_new:
        num_rows, columns = len(columns["index"]), new_pairs(columns, baseline.columns)
        words = f"left out {num_rows - len(columns['index']):,} pairs that {baseline.place} measured"
        left_out.append(Reduction("only-new", words, origins.get("only-new")))
    if ignored is not None:
        num_rows, columns = len(columns["index"]), ignored.left(columns)
        words = f"{ignored.file} left out {num_rows - len(columns['index']):,} pairs{ignored.expired_words}"
        left_out.append(Reduction("ignore-file", words, origins.get("ignore-file")))
    return columns, tuple(left_out)


def new_pairs(columns: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """The rows whose pairs a baseline did not measure; rows without a pair are new."""
    import numpy as np

    measured = baseline["status"] == Status.OK.value
    known = {pair_id for pair_id in baseline["pair_id"][measured] if pair_id is not None}
    return taken(columns, np.array([pair_id not in known for pair_id in columns["pair_id"]], dtype=bool))
