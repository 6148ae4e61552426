"""A finished training beside the scan of its start, as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from entangle_cli.report.html import MOVEMENTS
from entangle_cli.report.line_chart import Line, Range, line_chart
from entangle_cli.report.page import write_page
from entangle_cli.report.trained import ALONE, SETS, answer_sentences, basis_sentence, shown

CHARTS: Mapping[str, tuple[str, ...]] = {
    "Change of the log-probs, nats": ("chosen_change", "rejected_change"),
    "Change of the margin, nats": ("margin_change",),
    "Loss": ("loss",),
    "Accuracy": ("accuracy",),
}
"""Title of a chart to the numbers in it."""


def write_trained_page(stream: IO[str], document: Mapping[str, Any]) -> None:
    """Write the page; see `diagnose.views.trained`."""
    run = document["run"]
    values = {
        "document": document,
        "sentences": [*answer_sentences(document), basis_sentence(document), ALONE],
        "shares": [(name, run["movements"][name]["rate"] or 0.0) for name in MOVEMENTS],
        "charts": [(title, chart) for title, names in CHARTS.items() if (chart := _chart(document, title, names))],
        "curves": [
            (words, shown(document["curves"][name])) for name, words in SETS.items() if document["curves"][name]
        ],
    }
    write_page(stream, "trained.html", f"{run['model']} on {run['data']}: after training", {}, values)


def _chart(document: Mapping[str, Any], title: str, names: tuple[str, ...]) -> Any:
    """A chart of both curves; None if the log has none of the numbers. Those of evaluations are dashed."""
    lines = []
    for name in names:
        label = name.removesuffix("_change")
        style = label if label in ("chosen", "rejected") else "plain"
        for part in SETS:
            points = [(point["step"], point[name]) for point in document["curves"][part] if point[name] is not None]
            if points:
                is_train = part == "train"
                lines.append(Line(label if is_train else "", style if is_train else f"{style} faint", points))
    if not lines:
        return None
    values = [value for line in lines for _, value in line.points]
    scale = Range(0.0, 1.0) if title == "Accuracy" else Range.of(values, zero="nats" in title)
    return line_chart(lines, scale, document["log"]["steps"], title)
