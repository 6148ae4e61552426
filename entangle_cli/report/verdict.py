"""A gate's verdict for people: a line for each rule, then the outcome and what to look at next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from entangle_cli.records.pair import WRONG_WAY
from entangle_cli.records.words import counted
from entangle_cli.report.escape import for_terminal
from entangle_cli.report.marks import movement_words
from entangle_cli.report.summary import place_words, show_option

STYLES = {"passed": "", "failed": "bold red", "cannot_judge": "bold magenta", "open": ""}
OUTCOME_WORDS = {"passed": "passed", "failed": "FAILED", "cannot_judge": "CANNOT JUDGE", "open": "open"}
NUM_WORST = 3


def verdict_lines(verdict: Any, place: str | None = None) -> RenderableType:
    """A gate's verdict: a line for each rule, what was judged, the outcome, and what to look at next.

    Args:
        place: the run in commands, with its loss; None for a run in memory.
    """
    lines = []
    for result in verdict.results:
        outcome = result.outcome.value
        lines.append(Text(f"{for_terminal(result.sentence)}: {OUTCOME_WORDS[outcome]}", style=STYLES[outcome]))
    if verdict.scope is not None:
        lines.append(Text(f"judged: {for_terminal(verdict.scope.sentence)}"))
    outcome = verdict.outcome.value
    lines.append(Text(f"gate {outcome.replace('_', ' ')}: {verdict.sentence}", style=STYLES[outcome] or "bold"))
    if outcome == "failed" and place is not None and verdict.worst:
        lines += _next(verdict.worst, place)
    return Group(*lines)


def _next(worst: Sequence[Mapping[str, Any]], place: str) -> list[Text]:
    """The pairs to look at, and how."""
    shown = [row for row in worst if row["movement"] in WRONG_WAY][:NUM_WORST]
    pairs = ", ".join(f"{place_words(row)} {movement_words(row['movement'])}" for row in shown)
    lines = [Text(f"worst: {pairs}")] if shown else []
    commands = [f"entangle show {place} {show_option(shown[0])}"] if shown else []
    commands.append(f"entangle report {place}")
    return [*lines, *(Text(f"next:  {command}", no_wrap=True, overflow="ignore") for command in commands)]


def decision_lines(decision: Any, confidence: str) -> RenderableType:
    """What a scan decided before all rows were measured: a line a rule, then the outcome."""
    lines = []
    for found in decision.rules:
        outcome = "open" if found.outcome is None else found.outcome.value
        words = f"{found.rule.text}: of the whole data it is {found.bounds.low:.4g} to {found.bounds.high:.4g}"
        lines.append(Text(for_terminal(f"{words}: {OUTCOME_WORDS[outcome]}"), style=STYLES[outcome]))
    outcome = decision.outcome.value
    rows = f"decided after {decision.num_measured:,} of {counted(decision.num_rows, 'row')}, {confidence}"
    lines.append(Text(f"gate {outcome.replace('_', ' ')}: {rows}.", style=STYLES[outcome] or "bold"))
    return Group(*lines)
