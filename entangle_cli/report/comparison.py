"""Runs compared, for people: what moved between classes, how numbers shifted, what the log-probs did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.words import counted, percent
from entangle_cli.report.escape import for_markdown, for_terminal
from entangle_cli.report.marks import STYLES, WORDS, movement_words
from entangle_cli.report.tables import empty_table, heading, signed, signed_interval

SHORT = {"separates": "sep.", "both_rise": "rise", "both_fall": "fall", "reversed": "rev.", "still": "still"}


def comparison_report(document: Mapping[str, Any], style: box.Box) -> RenderableType:
    """The outcome of `diagnose.views.comparing.compare_document`.

    Args:
        style: of the tables: `box.SIMPLE_HEAD` in a terminal, `box.MARKDOWN` in Markdown.
    """
    runs, whole = document["runs"], document["whole"]
    parts: list[RenderableType] = [*_names(runs, style), Text(), _runs(runs, style), Text()]
    if document["differences"]:
        parts += [Text(differences_sentence(document), style="bold"), Text()]
    parts += [heading("Shares", f"of the {whole['matched']:,} pairs that first and last have in common", style)]
    parts += [_left_out(whole), _shares(whole, style), Text()]
    parts += [
        heading("From class to class", "rows: first run, columns: last run", style),
        _transitions(whole, style),
        Text(),
    ]
    parts += [heading("Shifts", "from first to last, with 95 % intervals of the paired differences", style)]
    parts += [_fields(whole, style), Text()]
    parts += [heading("Log-probs", "what they did from run to run, and where the run before had predicted", style)]
    parts += [_log_probs(document, style), Text(), Text(comparison_sentence(document), style="bold")]
    return Group(*parts)


def comparison_sentence(document: Mapping[str, Any]) -> str:
    """Changes that chance would not explain, in one sentence."""
    whole = document["whole"]
    moved = [
        f"{percent(change['after']['rate'])} {VERBS[name]}, "
        f"{'up' if change['difference'] > 0 else 'down'} from {percent(change['before']['rate'])}"
        for name, change in whole["movements"].items()
        if change["interval"] is not None and (change["interval"][0] > 0 or change["interval"][1] < 0)
    ]
    basis = f"{counted(whole['matched'], 'pair')} in common, each on its own first step"
    return f"{basis}: {'; '.join(moved) or 'no share changed by more than chance would explain'}."


VERBS: Mapping[str, str] = {**WORDS, "separates": "separate", "reversed": "are reversed", "still": "do not move"}
"""A movement after a share of pairs."""


def _names(runs: Sequence[Mapping[str, Any]], style: box.Box) -> list[Text]:
    in_markdown = style is box.MARKDOWN
    escape, mark = (for_markdown, "- run ") if in_markdown else (for_terminal, "run ")
    names = [f"{run['model']} on {run['data']}, {run['loss']['words']}" for run in runs]
    partial = ["" if run["status"] == "complete" else " (partial)" for run in runs]
    return [
        Text(f"{mark}{number}: {escape(name)}{note}")
        for number, (name, note) in enumerate(zip(names, partial, strict=True), start=1)
    ]


def differences_sentence(document: Mapping[str, Any]) -> str:
    """A warning that the runs were not measured alike."""
    names = ", ".join(document["differences"])
    lost = "" if document["whole"]["log_probs"] else "; other tokens were scored, so log-probs cannot be compared"
    return f"The runs were measured with other {names}: what changed may be due to that{lost}."


def _runs(runs: Sequence[Mapping[str, Any]], style: box.Box) -> Table:
    table = empty_table(style, "run", "step", "pairs", "separates", "both rise", "both fall", "median cosine")
    for number, run in enumerate(runs, start=1):
        shares = (_rate(run["movements"][movement]) for movement in ("separates", "both_rise", "both_fall"))
        step = "" if run["training_step"] is None else f"{run['training_step']:,}"
        table.add_row(str(number), step, f"{run['pairs']:,}", *shares, signed(run["median_cosine"]))
    return table


def _left_out(whole: Mapping[str, Any]) -> Text:
    left = [
        f"{whole[key]:,} only in the {which}"
        for key, which in (("only_first", "first"), ("only_second", "last"))
        if whole[key]
    ]
    return Text("; ".join(left), style="bold") if left else Text("all of both", style="dim")


def _shares(whole: Mapping[str, Any], style: box.Box) -> Table:
    table = empty_table(style, "movement", "first", "last", "change", "95 % interval")
    for name, change in whole["movements"].items():
        table.add_row(
            Text(movement_words(name), style=STYLES[name]),
            _rate(change["before"]),
            _rate(change["after"]),
            _points(change["difference"]),
            _interval(change["interval"], points=True),
        )
    return table


def _transitions(whole: Mapping[str, Any], style: box.Box) -> Table:
    names = list(whole["transitions"])
    table = empty_table(style, "from", *(f"to {SHORT[name]}" for name in names))
    for old in names:
        cells = [
            Text(f"{count:,}", style="dim" if old == new or not count else "bold")
            for new, count in whole["transitions"][old].items()
        ]
        if any(whole["transitions"][old].values()):
            table.add_row(Text(movement_words(old), style=STYLES[old]), *cells)
    return table


def _fields(whole: Mapping[str, Any], style: box.Box) -> Table:
    table = empty_table(style, "field", "median", "then", "median change", "95 % interval")
    for name, change in whole["fields"].items():
        table.add_row(
            name,
            signed(change["before"]["p50"]),
            signed(change["after"]["p50"]),
            signed(change["median_difference"]),
            _interval(change["median_interval"]),
        )
    return table


def _log_probs(document: Mapping[str, Any], style: box.Box) -> Table:
    table = empty_table(style, "to run", "answer", "mean change", "fell", "as predicted", "95 % interval")
    for number, step in enumerate(document["steps"], start=2):
        run = document["runs"][number - 1]
        name = str(number) if run["training_step"] is None else f"step {run['training_step']:,}"
        for side, change in step["log_probs"].items():
            predicted = change["as_predicted"]
            table.add_row(
                name,
                side,
                signed(change["mean_change"]),
                _rate(change["fell"]),
                _rate(predicted),
                "-" if predicted["interval"] is None else " to ".join(percent(end, 1) for end in predicted["interval"]),
            )
    return table


def _rate(share: Mapping[str, Any]) -> str:
    return "-" if share["rate"] is None else percent(share["rate"], 1)


def _points(difference: float | None) -> str:
    return "-" if difference is None else f"{100 * difference:+.1f} points"


def _interval(interval: Sequence[float] | None, *, points: bool = False) -> str:
    if interval is None:
        return "-"
    low, high = (100 * value if points else value for value in interval)
    return f"{low:+.1f} to {high:+.1f}" if points else signed_interval(interval)
