"""A finished training beside the scan of its start, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.words import counted, percent
from entangle_cli.report.tables import empty_table, escaped, heading, signed

NUM_SHOWN = 10
"""Points of the curve in a table."""

ALONE = (
    "The scan sees every pair alone, on its own first step. For batches and an optimizer, use entangle forecast "
    "--horizon or entangle rehearse."
)
SETS = {"train": "training batches", "eval": "evaluation data"}


def trained_report(document: Mapping[str, Any], style: box.Box) -> RenderableType:
    """The outcome of `diagnose.views.trained.trained_document`.

    Args:
        style: of the tables: `box.SIMPLE_HEAD` in a terminal, `box.MARKDOWN` in Markdown.
    """
    run, log = document["run"], document["log"]
    parts: list[RenderableType] = [
        Text(escaped(f"scan: {run['model']} on {run['data']}, {run['loss']['words']}", style)),
        Text(escaped(f"training: {log['file']}, {counted(log['steps'], 'step')}", style)),
        Text(),
    ]
    parts += [Text(sentence, style="bold") for sentence in answer_sentences(document)]
    parts += [Text(), Text(basis_sentence(document)), Text()]
    for name, words in SETS.items():
        if points := document["curves"][name]:
            parts += [
                heading("Curve", f"{words}, changes in nats since the start", style),
                _curve(points, style),
                Text(),
            ]
    return Group(*parts, Text(ALONE))


def answer_sentences(document: Mapping[str, Any]) -> list[str]:
    """For each answer, what the scan saw and what the training did."""
    return [_sentence(answer, found) for answer, found in document["answers"].items()]


def _sentence(answer: str, found: Mapping[str, Any]) -> str:
    falls, change = found["falls"], found["change"]
    if falls["rate"] is None:
        seen = f"{answer}: the scan measured no pair"
    else:
        seen = f"{answer}: in the scan it falls for {percent(falls['rate'])} of the pairs"
    if change is None:
        return f"{seen}. The log does not have it."
    if change == 0:
        return f"{seen}; in training its mean did not change."
    did = f"in training its mean {'fell' if change < 0 else 'rose'} by {abs(change):.3g} nats"
    verdict = {True: "as predicted", False: "not as predicted", None: "the scan gives no clear direction"}
    return f"{seen}; {did}: {verdict[found['as_predicted']]}."


def basis_sentence(document: Mapping[str, Any]) -> str:
    """How the changes follow from the log."""
    if document["log"]["changes_from"] == "rewards":
        beta = document["run"]["loss"]["beta"]
        return f"Changes are the logged rewards divided by beta {beta:g}: log-probs against the reference."
    return "Changes are the logged log-probs against their first tenth. They also hold the differences between batches."


def _curve(points: Sequence[Mapping[str, Any]], style: box.Box) -> Table:
    table = empty_table(style, "step", "loss", "accuracy", "chosen", "rejected", "margin")
    for point in shown(points):
        loss, accuracy = point["loss"], point["accuracy"]
        table.add_row(
            f"{point['step']:,}",
            "-" if loss is None else f"{loss:.3g}",
            "-" if accuracy is None else percent(accuracy),
            *(signed(point[f"{name}_change"]) for name in ("chosen", "rejected", "margin")),
        )
    return table


def shown(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most `NUM_SHOWN` points at equal distances, with the first and the last."""
    if len(points) <= NUM_SHOWN:
        return list(points)
    return [points[round(place * (len(points) - 1) / (NUM_SHOWN - 1))] for place in range(NUM_SHOWN)]
