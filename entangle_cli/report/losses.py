"""All losses side by side: the table for a terminal, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.pair import Movement

COLUMNS = tuple(movement.value for movement in Movement)


def losses_document(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison as one document."""
    return {"schema": "entangle.losses", "schema_version": "1.0", **comparison}


def losses_report(comparison: Mapping[str, Any]) -> RenderableType:
    """Shares of each movement under every loss, and what would let more pairs separate."""
    pairs = comparison["pairs"]
    if not pairs:
        return Text("No pair was measured, so that no loss can be compared.")
    heading = Text("All losses", style="bold").append(
        f" on {pairs:,} pairs: predicted movement under one small step on each pair alone (pair-sgd)", style="not bold"
    )
    parts: list[RenderableType] = [heading, _table(comparison)]
    if any(row["depends_on_batch"] for row in comparison["losses"]):
        parts.append(Text("* ranks pairs against one another: all pairs are taken for one batch", style="dim"))
    if any(row["undefined"] for row in comparison["losses"]):
        parts.append(Text("+ infinite or undefined for some pairs, which count nowhere", style="dim"))
    parts += [_numbers(comparison), Text(), _remedies(comparison)]
    return Group(*parts)


def _table(comparison: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    # Widths that never shrink: a terminal too narrow for them cuts no number in two.
    table.add_column("loss", no_wrap=True, min_width=max(len(row["name"]) for row in comparison["losses"]) + 1)
    for name in COLUMNS:
        lines = name.split("_")
        table.add_column("\n".join(lines), justify="right", no_wrap=True, min_width=max(6, *map(len, lines)))
    table.add_column("median\nslack", justify="right", no_wrap=True, min_width=7)
    for row in comparison["losses"]:
        marks = "*" * row["depends_on_batch"] + "+" * bool(row["undefined"])
        shares = [f"{row['counts'][name] / comparison['pairs']:.1%}" for name in COLUMNS]
        slack = "-" if row["median_slack"] is None else f"{row['median_slack']:+.3f}"
        table.add_row(row["name"] + marks, *shares, slack)
    return table


def _numbers(comparison: Mapping[str, Any]) -> Text:
    """Beta, which is everybody's, and the numbers that a loss has for itself."""
    beta = next(row["numbers"]["beta"] for row in comparison["losses"] if "beta" in row["numbers"])
    own = []
    for row in comparison["losses"]:
        numbers = ", ".join(f"{name} {value:g}" for name, value in row["numbers"].items() if name != "beta")
        own += [f"{row['name']} {numbers}"] if numbers else []
    return Text(f"beta {beta:g} throughout; {'; '.join(own)}", style="dim")


def _remedies(comparison: Mapping[str, Any]) -> RenderableType:
    pairs = comparison["pairs"]
    dpo = next(row for row in comparison["losses"] if row["name"] == "sigmoid")["counts"]["separates"]
    heading = Text("What would let more pairs separate", style="bold").append(
        f"; under DPO {dpo / pairs:.1%} do", style="not bold"
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for remedy in comparison["remedies"]:
        best = remedy["best"]
        if best is None:
            table.add_row(f"  {remedy['name']}", "-", f"no value helps; {remedy['meaning']}")
        else:
            table.add_row(f"  {remedy['name']} {_value(best)}", f"{best['pairs'] / pairs:.1%}", remedy["meaning"])
    table.add_row(
        "  normalised gradients",
        f"{comparison['separable'] / pairs:.1%}",
        "each pair's two gradients brought to one length: every cosine below 1 separates, the upper bound",
    )
    return Group(heading, table)


def _value(best: Mapping[str, Any]) -> str:
    """A value inside the best stretch."""
    if best["high"] is None:
        return f"above {best['low']:.3g}"
    return f"{(best['low'] + best['high']) / 2:.3g}"
