"""An inspection for people: what a data set is, what is wrong with it, and three pairs as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.words import counted
from entangle_cli.report.escape import for_terminal
from entangle_cli.report.tables import WholeTable

SHOWN_CHARACTERS = 400
SHOWN_TOKENS = 24


def inspection_report(document: Mapping[str, Any]) -> RenderableType:
    """Everything worth reading about a data set."""
    parts: list[RenderableType] = [_overview(document), Text()]
    if document["lengths"]:
        parts += [_length_table(document["lengths"]), Text()]
    for pair in document["pairs"]:
        parts += [_pair(pair), Text()]
    if document["reasons"]:
        parts += [_reasons(document), Text()]
    for notice in document["notices"]:
        parts.append(Text(f"{notice['code']} ({notice['count']:,}): {notice['message']}", style="bold"))
    return Group(*parts)


def _overview(document: Mapping[str, Any]) -> Table:
    data, usable = document["data"], document["usable"]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = counted(data["rows"], "row") + (
        "" if data["looked_at"] == data["rows"] else f", {data['looked_at']:,} looked at"
    )
    table.add_row("data", Text(for_terminal(f"{data['name']}: {data['kind']}, {rows}")))
    formats = "; ".join(f"{name}: {count:,}" for name, count in document["formats"].items())
    table.add_row("format", Text(for_terminal(formats or "none recognised")))
    table.add_row("columns", Text(for_terminal(", ".join(document["columns"]))))
    table.add_row("usable", Text(f"{counted(usable, 'pair')} in {counted(data['looked_at'], 'row')}"))
    return table


def _length_table(lengths: Mapping[str, Mapping[str, float]]) -> Table:
    table = WholeTable(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("length", no_wrap=True)
    for level in next(iter(lengths.values())):
        table.add_column(level, justify="right", no_wrap=True)
    for name, values in lengths.items():
        table.add_row(name, *(f"{value:,.0f}" for value in values.values()))
    return table


def _reasons(document: Mapping[str, Any]) -> RenderableType:
    counts = ", ".join(f"{reason} {count:,}" for reason, count in document["reasons"].items())
    lines: list[RenderableType] = [Text("Not usable", style="bold").append(f"  {counts}", style="not bold")]
    for row in document["skipped"]:
        place = f"{row['file']}, " if row["file"] else ""
        place += f"line {row['line']}" if row["line"] is not None else f"row {row['index']}"
        lines.append(Text(for_terminal(f"  {place}: {row['reason']}: {row['detail']}")))
    left = sum(document["reasons"].values()) - len(document["skipped"])
    if left:
        lines.append(Text(f"  and {left:,} more", style="dim"))
    return Group(*lines)


def _pair(pair: Mapping[str, Any]) -> RenderableType:
    place = f"row {pair['index']}" + ("" if pair["line"] is None else f", line {pair['line']}")
    if pair["pair_in_row"] is not None:
        place += f", pair {pair['pair_in_row']}"
    heading = Text(place, style="bold").append(f"  {for_terminal(pair['format'])}", style="not bold")
    lines: list[RenderableType] = [heading]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name in ("prompt", "chosen", "rejected"):
        for role, text in _turns(pair[name]) if "chosen_ids" not in pair else ():
            table.add_row(Text(for_terminal(f"{name} {role}".rstrip())), Text(_shortened(text)))
    for name in ("chosen", "rejected"):
        if tokens := pair.get(f"{name}_tokens"):
            table.add_row(f"{name} scored", _tokens(tokens["not_scored"], tokens["scored"]))
        elif ids := pair.get(f"{name}_ids"):
            table.add_row(f"{name} scored", _tokens(*(list(map(str, ids[part])) for part in ("not_scored", "scored"))))
    lines.append(table)
    return Group(*lines)


def _turns(part: Any) -> Sequence[tuple[str, str]]:
    if isinstance(part, str):
        return [("", part)]
    return [(str(message.get("role")), str(message.get("content"))) for message in part]


def _shortened(text: str) -> str:
    """The start and the end of a long text: the end of a prompt is where the answer begins."""
    half = SHOWN_CHARACTERS // 2
    if len(text) > SHOWN_CHARACTERS:
        left = len(text) - SHOWN_CHARACTERS
        text = f"{text[:half]} [{left:,} characters] {text[-half:]}"
    return "\n".join(for_terminal(line) for line in text.split("\n"))


def _tokens(not_scored: Sequence[str], scored: Sequence[str]) -> Text:
    """The last tokens that are not scored, then the scored ones, each in its own brackets."""
    text = Text()
    for piece in not_scored[-4:]:
        text.append(f"[{_visible(piece)}]", style="dim")
    text.append(" | ")
    for piece in scored[:SHOWN_TOKENS]:
        text.append(f"[{_visible(piece)}]", style="bold")
    if len(scored) > SHOWN_TOKENS:
        text.append(f" and {len(scored) - SHOWN_TOKENS:,} more", style="dim")
    return text


def _visible(piece: str) -> str:
    return for_terminal(piece.replace("\n", "\\n"))
