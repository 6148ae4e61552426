"""All losses side by side: sorted, equal ones merged, each at its own customary settings; and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.pair import Movement
from entangle_cli.records.words import counted, percent
from entangle_cli.report.marks import WORDS
from entangle_cli.report.tables import WholeTable

NUM_NAMED = 3
"""Losses of a group that the table names; the list below it names all."""


class LossGroup(NamedTuple):
    """Losses that move every pair of a run the same way."""

    rows: Sequence[Mapping[str, Any]]

    @property
    def counts(self) -> Mapping[str, int]:
        """Movement to pairs."""
        counts: Mapping[str, int] = self.rows[0]["counts"]
        return counts

    @property
    def name(self) -> str:
        """The first names, and how many more there are."""
        names = [row["name"] for row in self.rows]
        more = f" and {len(names) - NUM_NAMED + 1} more" if len(names) > NUM_NAMED else ""
        return ", ".join(names[: NUM_NAMED - 1] if more else names) + more


def loss_groups(comparison: Mapping[str, Any]) -> list[LossGroup]:
    """Losses that give the same, side by side; the most separating group first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in comparison["losses"]:
        groups.setdefault(row["same_as"] or row["name"], []).append(row)
    return sorted(
        (LossGroup(rows) for rows in groups.values()), key=lambda group: -group.counts[Movement.SEPARATES.value]
    )


def losses_document(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison as one document."""
    return {"schema": "entangle.losses", "schema_version": "1.0", **comparison}


def losses_report(comparison: Mapping[str, Any]) -> RenderableType:
    """Shares of each movement under every loss, and what would let more pairs separate."""
    pairs = comparison["pairs"]
    if not pairs:
        return Text("No pair was measured, so no loss can be compared.")
    groups = loss_groups(comparison)
    words = f" on {counted(pairs, 'pair')}, each on its own first step; losses in one line move every pair alike"
    parts: list[RenderableType] = [Text("All losses", style="bold").append(words, style="not bold")]
    parts += [_table(groups, pairs, comparison["losses"][0]["name"]), *_notes(groups)]
    parts += [Text(), _settings(comparison), Text(), _remedies(comparison)]
    return Group(*parts)


def _table(groups: Sequence[LossGroup], pairs: int, own: str) -> Table:
    shown = [name for name in WORDS if any(group.counts[name] for group in groups) or name == Movement.SEPARATES]
    table = WholeTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("loss", overflow="fold")
    for name in shown:
        table.add_column(WORDS[name].replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for group in groups:
        names = [row["name"] for row in group.rows]
        shares = (percent(group.counts[name] / pairs) for name in shown)
        bar = "█" * round(16 * group.counts[Movement.SEPARATES.value] / pairs)
        table.add_row(Text(group.name, style="bold" if own in names else ""), *shares, bar)
    return table


def _notes(groups: Sequence[LossGroup]) -> list[Text]:
    notes = [
        f"{group.name}: {', '.join(row['name'] for row in group.rows)}"
        for group in groups
        if len(group.rows) > NUM_NAMED
    ]
    designs: dict[str, list[str]] = {}
    for row in (row for group in groups for row in group.rows if row["by_design"]):
        designs.setdefault(row["by_design"], []).append(row["name"])
    notes += [f"{', '.join(names)}: {words}" for words, names in designs.items()]
    rows = [row for group in groups for row in group.rows]
    if ranking := [row["name"] for row in rows if row["depends_on_batch"]]:
        verb = "ranks" if len(ranking) == 1 else "rank"
        notes.append(f"{', '.join(ranking)}: {verb} pairs against one another; all pairs of the run count as one batch")
    if undefined := [row["name"] for row in rows if row["undefined"]]:
        notes.append(f"{', '.join(undefined)}: infinite or undefined for some pairs, which are in no column")
    return [Text(note, style="dim") for note in notes]


def _settings(comparison: Mapping[str, Any]) -> Text:
    """The numbers of every loss: beta first, since most losses share one."""
    by_beta: dict[float, list[str]] = {}
    own = []
    for row in comparison["losses"]:
        if "beta" in row["numbers"]:
            by_beta.setdefault(row["numbers"]["beta"], []).append(row["name"])
        numbers = ", ".join(f"{name} {value:g}" for name, value in row["numbers"].items() if name != "beta")
        own += [f"{row['name']} {numbers}"] if numbers else []
    betas = sorted(by_beta.items(), key=lambda item: -len(item[1]))
    words = [f"beta {betas[0][0]:g}" if betas else ""]
    words += [f"{', '.join(names)} beta {beta:g}" for beta, names in betas[1:]]
    return Text("Settings", style="bold").append(f"  {'; '.join([*words, *own])}", style="dim not bold")


def _remedies(comparison: Mapping[str, Any]) -> RenderableType:
    pairs = comparison["pairs"]
    dpo = next(row for row in comparison["losses"] if row["name"] == "sigmoid")["counts"][Movement.SEPARATES.value]
    heading = Text("Smallest changes that let more pairs separate", style="bold")
    heading.append(f"; {percent(dpo / pairs)} do under DPO", style="not bold")
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for name, sentence in SENTENCES.items():
        remedy = next(each for each in comparison["remedies"] if each["name"] == name)
        best = remedy["best"]
        share = "-" if best is None else percent(best["pairs"] / pairs)
        words = f"no value helps: {remedy['meaning']}" if best is None else sentence.format(f"{remedy['value']:.4g}")
        table.add_row(f"  {share}", words)
    bound = "bring both gradients of each pair to one length: the upper bound of any weighting"
    table.add_row(f"  {percent(comparison['separable'] / pairs)}", bound)
    return Group(heading, table)


SENTENCES = {
    "coefficient ratio": "weight the chosen answer {} times as much as the rejected one",
    "nll_weight": "add the chosen answer's likelihood with weight {} (sigmoid_sft; in TRL loss_weights)",
    "penalty": "penalise a fall of the chosen answer, once it has begun, with weight {} (dpop)",
    "factor": "weight the rejected log-ratio {} times (dpo_shift)",
}
"""Every remedy in words, with its value."""
