"""The verdict of rules on a run, with or without a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from entangle_cli.api.run import Run, worst_places
from entangle_cli.errors import NothingToJudgeError, UsageError
from entangle_cli.records.columns import Columns, rows_of, taken
from entangle_cli.records.pair import WRONG_WAY, Status
from entangle_cli.records.words import counted

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
        baseline: run to compare with, for rules that end in `_increase`.
        only_new: whether to exclude pairs that the baseline measured.
        ignored: pairs to exclude, each with a reason and an expiry date.
        min_pairs: smallest number of measured pairs that can be judged.
        max_skipped: largest share of the data's rows without a measurement.
        origins: origins of the options that were not set on the command line. The verdict names them.
    Returns:
        The verdict, with a result for every rule and the judged part of the data.
    Raises:
        UsageError: a rule is invalid, or the baseline has another model, settings or loss.
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
    columns, reductions = _judged_columns(run, baseline, ignored, origins, only_new=only_new)
    verdict = judge(parsed, columns, before, Limits(min_pairs, max_skipped), scope_of(run, reductions, origins))
    return replace(verdict, worst=_worst_rows(verdict, columns))


NUM_WORST = 10
"""Number of pairs that a verdict lists."""


def _worst_rows(verdict: Verdict, columns: Columns) -> list[dict[str, Any]]:
    """The worst pairs. If rules on movements failed, only pairs with these movements."""
    import numpy as np

    from entangle_cli.analysis.gate import Outcome

    failed = {result.rule.metric for result in verdict.results if result.outcome is Outcome.FAILED}
    movements = [movement.value for movement in WRONG_WAY if f"{movement.value}_rate" in failed]
    if movements:
        columns = taken(columns, np.isin(columns["movement"].astype(str), movements))
    return list(rows_of(taken(columns, worst_places(columns, NUM_WORST))))


def parsed_rules(rules: Sequence[str | Rule], origin: str | None = None) -> list[Rule]:
    """Parse the rules given as text.

    Args:
        origin: origin of the rules; None for the command line.
    Raises:
        UsageError: a rule is invalid.
    """
    from entangle_cli.analysis.rules import COMMAND_LINE, parse_rule

    return [parse_rule(rule, origin or COMMAND_LINE) if isinstance(rule, str) else rule for rule in rules]


def refuse_without_baseline(rules: Sequence[Rule], *, only_new: bool = False) -> None:
    """Reject options and rules that need a baseline.

    Raises:
        UsageError: `only_new` is set, or a rule ends in _increase.
    """
    from entangle_cli.analysis.rules import is_relative

    needed = ["--only-new"] * only_new + [f"--fail-if {rule.text!r}" for rule in rules if is_relative(rule)]
    if needed:
        raise UsageError(
            f"{needed[0]} without a baseline", "a run to compare with", "add --baseline RUN to entangle gate"
        )


def refuse_partial(run: Run) -> None:
    """Reject a run that does not cover all selected rows.

    Raises:
        NothingToJudgeError: the run is partial, or its scan ended when its own rules were decided.
    """
    if run.identity.is_until_decided:
        raise NothingToJudgeError(
            f"{run.place} was measured until its own rules were decided",
            "a run with a number of rows that does not depend on the results",
            "use the verdict of that scan, or scan without --until-decided",
        )
    if run.status != "complete":
        raise NothingToJudgeError(
            f"{run.place} is not complete: it ended after {counted(len(run), 'row')}",
            "a complete run; a part is not a random sample of the data",
            "run the scan command again to complete the run",
        )


def _judged_columns(
    run: Run, baseline: Run | None, ignored: Ignored | None, origins: Mapping[str, str], *, only_new: bool
) -> tuple[Mapping[str, Any], tuple[Any, ...]]:
    """The columns to judge, and the options that removed rows from them."""
    from entangle_cli.analysis.gate import Reduction

    columns, reductions = run.all_columns, []
    if baseline is not None and only_new:
        num_rows, columns = len(columns["index"]), new_pairs(columns, baseline.columns)
        words = f"left out {counted(num_rows - len(columns['index']), 'pair')} that {baseline.place} measured"
        reductions.append(Reduction("only-new", words, origins.get("only-new")))
    if ignored is not None:
        num_rows, columns = len(columns["index"]), ignored.remove_from(columns)
        words = f"{ignored.file} left out {counted(num_rows - len(columns['index']), 'pair')}{ignored.expired_words}"
        reductions.append(Reduction("ignore-file", words, origins.get("ignore-file")))
    return columns, tuple(reductions)


def new_pairs(columns: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """The rows with pairs that a baseline did not measure. Rows without a pair count as new."""
    import numpy as np

    measured = baseline["status"] == Status.OK.value
    known = {pair_id for pair_id in baseline["pair_id"][measured] if pair_id is not None}
    return taken(columns, np.array([pair_id not in known for pair_id in columns["pair_id"]], dtype=bool))
