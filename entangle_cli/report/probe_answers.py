"""Where the mass goes: what a step or a rehearsal does to groups of probe answers, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.text import Text

from entangle_cli.records.words import counted, listed
from entangle_cli.report.summary import shortened
from entangle_cli.report.tables import empty_table, escaped, heading, signed

TITLE = "Where the mass goes"
GROUP_WIDTH = 24
"""Columns of a group's name in a table."""
SOURCES = {"optimizer": "first step", "run": "end of the run", "real_step": "real first step"}
"""Where a forecast's changes come from, in words."""
VERBS = {"gain": ("gain", "gains"), "fall": ("lose", "loses")}
"""What a whole group does to its probability: several answers, and one."""
OWN_MEANINGS = {
    "gain": ": the model becomes more peaked and repeats itself more surely",
    "fall": ": the model moves away from what it said before",
}
"""What it means for answers that the model wrote itself."""
FEWEST_OWN = 3
"""Own answers from which a sentence speaks of the model."""


def forecast_probe_parts(probes: Mapping[str, Any], *, shows_run: bool) -> list[RenderableType]:
    """The probe answers of a forecast.

    Args:
        shows_run: whether the forecast of the run holds.
    """
    style = box.SIMPLE_HEAD
    table = empty_table(style, "group", "over", "median,\nnats", "gain", "nats per\ntoken", words=2)
    for group in probes["groups"]:
        for source, words in SOURCES.items():
            change = group[source]
            if change is not None and (source != "run" or shows_run):
                name = _group_name(group["group"], style) if source == "optimizer" else ""
                table.add_row(name, words, *change_cells(change, group["count"]))
    parts: list[RenderableType] = [_heading(probes["data"], "under the first step", style), table]
    parts += [Text(_agreement_words(row)) for row in probes["verification"]]
    return [*parts, *(Text(escaped(line, style)) for line in forecast_probe_sentences(probes))]


def forecast_probe_sentences(probes: Mapping[str, Any]) -> list[str]:
    """A sentence for each group that gains or falls as a whole in the forecast of the first step."""
    return [
        _whole_group("To first order, in this step", group, group["optimizer"]["all_move"], "")
        for group in probes["groups"]
        if group["optimizer"]["all_move"] is not None
    ]


def rehearsal_probe_parts(
    document: Mapping[str, Any], names: Mapping[str, str], style: box.Box
) -> list[RenderableType]:
    """The probe answers of a rehearsal, by group and loss.

    Args:
        names: of the losses, by their keys.
    """
    probes = document["probes"]
    table = empty_table(style, "group", "loss", "median,\nnats", "gain", "nats per\ntoken", words=2)
    for name, loss, group in groups_by_loss(probes):
        table.add_row(_group_name(name, style), names[loss], *change_cells(group, group["count"]))
    when = f"after {counted(document['steps'], 'step')}, measured"
    mark = "- " if style is box.MARKDOWN else ""
    sentences = [Text(mark + escaped(line, style)) for line in rehearsal_probe_sentences(document, names)]
    return [_heading(probes["data"], when, style), table, *sentences]


def groups_by_loss(probes: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Group, key of the loss, and what happened, with a group's losses next to one another."""
    found = [(group["group"], loss["loss"], group) for loss in probes["losses"] for group in loss["groups"]]
    order = list(dict.fromkeys(name for name, _, _ in found))
    return sorted(found, key=lambda each: order.index(each[0]))


def rehearsal_probe_sentences(document: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """A sentence for each group that gained or fell as a whole, with the losses under which it did."""
    lead = f"After {counted(document['steps'], 'step')}"
    losses: dict[tuple[str, str], list[str]] = {}
    groups: dict[tuple[str, str], Mapping[str, Any]] = {}
    for name, loss, group in groups_by_loss(document["probes"]):
        if (moves := group["all_move"]) is not None:
            losses.setdefault((name, moves), []).append(names[loss])
            groups.setdefault((name, moves), group)
    return [_whole_group(lead, group, key[1], f" under {listed(losses[key])}") for key, group in groups.items()]


def change_cells(change: Mapping[str, Any], count: int) -> tuple[str, str, str]:
    """Median change, answers that gain, and change per token."""
    return signed(change["change_median"]), f"{change['gains']:,} of {count:,}", signed(change["change_per_token"])


def _whole_group(lead: str, group: Mapping[str, Any], moves: str, where: str) -> str:
    """What it means that a whole group gains or falls.

    Args:
        lead, where: when it happens, and under which losses.
    """
    count = group["count"]
    which = {1: "the only answer", 2: "both answers"}.get(count, f"all {count:,} answers")
    verb = VERBS[moves][count == 1]
    meaning = OWN_MEANINGS[moves] if group["answers_are_own"] and count >= FEWEST_OWN else ""
    name = shortened(group["group"], GROUP_WIDTH)
    return f"{lead}, {which} of group {name} {verb} probability{where}{meaning}."


def _heading(data: Mapping[str, Any], when: str, style: box.Box) -> Text:
    words = f"log-probs of the answers in {data['name']} {when}"
    return heading(f"{TITLE}:" if style is box.MARKDOWN else f"{TITLE} ", escaped(words, style), style)


def _group_name(name: str, style: box.Box) -> str:
    return escaped(shortened(name, GROUP_WIDTH), style)


def _agreement_words(row: Mapping[str, Any]) -> str:
    error = "-" if row["relative_error"] is None else f"{100 * row['relative_error']:.2g} %"
    return (
        f"At a learning rate of {row['learning_rate']:.3g}, {row['same_sign']:,} of {row['log_probs']:,} answers "
        f"really go the forecast way; the error is {error}."
    )
