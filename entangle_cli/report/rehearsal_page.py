"""A rehearsal as a page: small multiples, one row of charts per loss, all on the same scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from entangle_cli.records.words import last_turn
from entangle_cli.report.html import MOVEMENTS
from entangle_cli.report.line_chart import Line, Range, line_chart
from entangle_cli.report.page import write_page
from entangle_cli.report.probe_answers import change_cells, groups_by_loss, rehearsal_probe_sentences
from entangle_cli.report.rehearsal import SETS, loss_names, rehearsal_sentences, training_words
from entangle_cli.report.summary import place_words

SHARE_TITLE = "Share of the pairs"
SHARES = Range(0.0, 1.0)

CHARTS: Mapping[str, Mapping[str, str]] = {
    "Change of the log-probs, nats": {"chosen_change_mean": "chosen", "rejected_change_mean": "rejected"},
    "Change of the margin, nats": {"margin_change_mean": "margin"},
    SHARE_TITLE: {"chosen_falls_rate": "chosen falls", "rejected_rises_rate": "rejected rises"},
    "Cosine of the gradients": {"cosine_mean": "cosine"},
}
"""Title of a chart to its metrics and their names in it."""

STYLES = {"chosen": "chosen", "chosen falls": "chosen", "rejected": "rejected", "rejected rises": "rejected"}

LOGGED = "Log-probs of each step's batch, as the trainer logs them"


def write_rehearsal_page(stream: IO[str], document: Mapping[str, Any]) -> None:
    """Write the page; see `diagnose.rehearse.document`."""
    names = loss_names(document)
    sentences = rehearsal_sentences(document)
    values = {
        "document": document,
        "names": names,
        "sentences": sentences,
        "training": training_words(document),
        "sets": SETS,
        "charts": [(names[loss["name"]], loss["trainer"], _charts(loss, document)) for loss in document["losses"]],
        "bars": [
            (f"{names[loss['name']]}, {words} pairs", _shares(loss["points"][-1][name]))
            for loss in document["losses"]
            for name, words in SETS.items()
            if loss["points"][-1][name]
        ],
        "probes": _probes(document, names),
        "pairs": [_pair(pair, document) for pair in document["pairs"]],
    }
    title = f"{document['model']['name']} on {document['data']['name']}: entangle rehearse"
    write_page(stream, "rehearsal.html", title, {}, values)


def _probes(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any] | None:
    """Groups of probe answers by loss, and sentences about whole groups; None without them."""
    if document["probes"] is None:
        return None
    rows = [
        (name, names[loss], *change_cells(group, group["count"]))
        for name, loss, group in groups_by_loss(document["probes"])
    ]
    return {"rows": rows, "sentences": rehearsal_probe_sentences(document, names)}


def _shares(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, metrics.get(f"{name}_rate", 0.0)) for name in MOVEMENTS]


def _charts(loss: Mapping[str, Any], document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Titles and charts of a loss. Every kind of chart has the same scale for all losses."""
    last = document["steps"]
    found = []
    for title, metrics in CHARTS.items():
        values = [value for other in document["losses"] for line in _lines(other, metrics) for _, value in line.points]
        scale = SHARES if title == SHARE_TITLE else Range.of(values, zero="nats" in title)
        found.append((title, line_chart(_lines(loss, metrics), scale, last, title)))
    own = [
        Line(side, side, [(entry["step"], entry[f"{side}_log_prob"]) for entry in _known(loss, f"{side}_log_prob")])
        for side in ("chosen", "rejected")
    ]
    # Some trainers log sums over the tokens and others means, so the scale is the loss's own.
    logged = [value for line in own for _, value in line.points]
    found.append((LOGGED, line_chart(own, Range.of(logged, zero=False), last, LOGGED)))
    return found


def _known(loss: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [entry for entry in loss["log"] if entry[name] is not None]


def _lines(loss: Mapping[str, Any], metrics: Mapping[str, str]) -> list[Line]:
    """A line per metric and probe set; those of held-out pairs are dashed and have no name of their own."""
    lines = []
    for metric, label in metrics.items():
        for name in SETS:
            points = [
                (point["step"], point[name][metric])
                for point in loss["points"]
                if point[name] and metric in point[name]
            ]
            faint = "" if name == "train" else " faint"
            lines.append(Line(label if name == "train" else "", STYLES.get(label, "plain") + faint, points))
    return lines


def _pair(pair: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "place": place_words(pair),
        "pairs_of": SETS[pair["pairs_of"]],
        "prompt": " ".join(last_turn(pair["prompt"]).split()),
        "tokens": f"{pair['chosen_tokens']} / {pair['rejected_tokens']}",
        "losses": [pair["losses"][loss["name"]] for loss in document["losses"]],
    }
