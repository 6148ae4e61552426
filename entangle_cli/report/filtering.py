"""What a filter kept, and what the shares are before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.words import counted, percent
from entangle_cli.report.escape import for_terminal
from entangle_cli.report.marks import STYLES, movement_words
from entangle_cli.report.tables import WholeTable


def filter_report(result: Mapping[str, Any], loss: str) -> RenderableType:
    """The outcome of `diagnose.views.filtering.filter_data` for people."""
    rows, kept = result["rows"], result["kept"]
    heading = Text(for_terminal(f"{result['data']}: kept {kept:,} of {counted(rows, 'row')}"), style="bold")
    heading.append(for_terminal(f"; the {result['written']} ones are in {result['output']}"), style="not bold")
    parts: list[RenderableType] = [heading]
    if result["not_in_run"]:
        parts.append(Text(f"Warning: the run never measured {counted(result['not_in_run'], 'row')}", style="bold"))
    parts += [Text(f"Expected shares of the measured pairs under {loss}, by pair-sgd:"), _table(result)]
    return Group(*parts)


def _table(result: Mapping[str, Any]) -> Table:
    before, after = result["before"], result["after"]
    table = WholeTable(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("movement", no_wrap=True)
    for heading in (f"all {before['pairs']:,}", f"kept {after['pairs']:,}"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in before["movements"]:
        table.add_row(
            Text(movement_words(name), style=STYLES[name]),
            *(_rate(side["movements"][name]) for side in (before, after)),
        )
    table.add_row("mean cosine", *(_cosine(side["mean_cosine"]) for side in (before, after)))
    return table


def _rate(share: Mapping[str, Any]) -> str:
    return "-" if share["rate"] is None else percent(share["rate"], 1)


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
