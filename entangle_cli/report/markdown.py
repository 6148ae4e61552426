"""Reports as Markdown, for a pull request's comment: rich's tables in Markdown's own form, text made harmless."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.pair import MOVEMENT_MEANINGS
from entangle_cli.records.run import Notice, Run
from entangle_cli.report.escape import for_markdown
from entangle_cli.report.terminal import verdict_sentence

WIDTH = 10_000
"""No line is broken."""


def print_markdown(
    stream: IO[str],
    title: str,
    render: Callable[[Mapping[str, Any], box.Box], RenderableType],
    document: Mapping[str, Any],
) -> None:
    """Any report that can draw its tables in a given style."""
    stream.write(f"### {for_markdown(title)}\n\n")
    _print(stream, render(document, box.MARKDOWN))


def _print(stream: IO[str], renderable: RenderableType) -> None:
    console = Console(file=stream, width=WIDTH, highlight=False, markup=False, emoji=False, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    for line in capture.get().split("\n"):
        stream.write(re.sub(r" {2,}", " ", line).rstrip() + "\n")


def write_report_markdown(
    stream: IO[str],
    run: Run,
    summary: Mapping[str, Any],
    loss: str,
    notices: Sequence[Notice],
    worst: Sequence[Mapping[str, Any]],
    verdict: Any,
) -> None:
    """The report of a run, with the same message as in a terminal."""
    identity = run.identity
    stream.write(f"### {for_markdown(identity.model_name)} on {for_markdown(identity.data_name)}\n\n")
    if run.status != "complete":
        stream.write("**This run is partial.**\n\n")
    stream.write(f"**{for_markdown(verdict_sentence(summary, loss))}**\n\n")
    if verdict is not None:
        for result in verdict.results:
            outcome = result.outcome.value.replace("_", " ")
            stream.write(f"- **{outcome}**: {for_markdown(result.sentence)}\n")
        stream.write(f"- gate {verdict.outcome.value.replace('_', ' ')}: {for_markdown(verdict.sentence)}\n\n")
    if summary["pairs"]:
        _print(stream, _movements(summary))
        _print(stream, _worst(worst))
    if summary["data_sets"]:
        _print(stream, _data_sets(summary["data_sets"]))
    if summary["layers"]:
        _print(stream, _layers(summary["layers"]))
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in summary["reasons"].items())
    if reasons:
        stream.write(f"Not measured: {for_markdown(reasons)}\n\n")
    for notice in notices:
        stream.write(f"- {notice.code} ({notice.count:,}): {for_markdown(notice.message)}\n")


def _table(*headings: str) -> Table:
    table = Table(box=box.MARKDOWN)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    return table


def _movements(summary: Mapping[str, Any]) -> Table:
    table = _table("movement", "pairs", "share", "95 % interval", "meaning")
    for name, share in summary["movements"].items():
        interval = "{:.1%} to {:.1%}".format(*share["interval"])
        table.add_row(name, f"{share['count']:,}", f"{share['rate']:.1%}", interval, MOVEMENT_MEANINGS[name])
    if without := summary["without_movement"]:
        rate = f"{without / summary['pairs']:.1%}"
        table.add_row("none", f"{without:,}", rate, "", "the loss has no finite coefficients for these pairs")
    return table


def _data_sets(data_sets: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("data set", "rows", "pairs", *MOVEMENT_MEANINGS)
    for found in data_sets:
        rates = (share["rate"] for share in found["movements"].values())
        cells = ("-" if rate is None else f"{rate:.1%}" for rate in rates)
        table.add_row(Text(for_markdown(found["name"])), f"{found['rows']:,}", f"{found['pairs']:,}", *cells)
    return table


def _worst(worst: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("worst pairs, row", "line", "movement", "slack", "cosine", "norm ratio")
    for row in worst:
        numbers = ("-" if row[name] is None else f"{row[name]:+.3f}" for name in ("slack", "cosine"))
        line = "" if row["line"] is None else str(row["line"])
        ratio = "-" if row["norm_ratio"] is None else f"{row['norm_ratio']:.3g}"
        table.add_row(str(row["index"]), line, row["movement"] or "undefined", *numbers, ratio)
    return table


def _layers(profile: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("parameters", "part of cosine", "own cosine")
    for row in profile:
        numbers = ("-" if row[name] is None else f"{row[name]:+.3f}" for name in ("cosine_part", "cosine"))
        table.add_row(Text(for_markdown(row["group"])), *numbers)
    return table
