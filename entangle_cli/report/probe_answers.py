"""Where the mass goes: what a step or a rehearsal does to groups of probe answers, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.text import Text

from entangle_cli.records.words import counted
from entangle_cli.report.summary import shortened
from entangle_cli.report.tables import empty_table, escaped, heading, signed

TITLE = "Where the mass goes"
GROUP_WIDTH = 24
"""Columns of a group's name in a table."""
SOURCES = {"optimizer": "first step", "run": "end of the run", "real_step": "real first step"}
"""Where a forecast's changes come from, in words."""
MEANINGS = {
    ("gain", False): "each becomes more likely",
    ("fall", False): "each becomes less likely",
    ("gain", True): "the model becomes more peaked and repeats them more surely",
    ("fall", True): "the model moves away from what it said at the start",
}
"""What it means that a whole group gains or falls, by whether the model wrote the answers."""


def forecast_probe_parts(probes: Mapping[str, Any], *, shows_run: bool) -> list[RenderableType]:
    """The probe answers of a forecast.

    Args:
        shows_run: whether the forecast of the run holds.
    """
    style = box.SIMPLE_HEAD
    table = empty_table(style, "group", "over", "median,\nnats", "gain", "nats\na token", words=2)
    for group in probes["groups"]:
        for source, words in SOURCES.items():
            change = group[source]
            if change is not None and (source != "run" or shows_run):
                name = _group_name(group["group"], style) if source == "optimizer" else ""
                table.add_row(name, words, *change_cells(change, group["count"]))
    parts: list[RenderableType] = [_heading(probes["data"], "under the first step", style), table]
    parts += [Text(_agreement_words(row)) for row in probes["verification"]]
    return [*parts, *(Text(line) for line in forecast_probe_sentences(probes, style))]


def forecast_probe_sentences(probes: Mapping[str, Any], style: box.Box) -> list[str]:
    """A sentence for each group that gains or falls as a whole in the forecast of the first step."""
    return [
        whole_group_sentence(group, group["optimizer"]["all_move"], "To first order, in this step", style)
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
    table = empty_table(style, "group", "loss", "median,\nnats", "gain", "nats\na token", words=2)
    for name, loss, group in groups_by_loss(probes):
        table.add_row(_group_name(name, style), names[loss], *change_cells(group, group["count"]))
    when = f"after {counted(document['steps'], 'step')}, measured"
    sentences = [escaped(line, style) for line in rehearsal_probe_sentences(document, names)]
    return [_heading(probes["data"], when, style), table, *map(Text, sentences)]


def groups_by_loss(probes: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Group, key of the loss, and what happened, with a group's losses next to one another."""
    found = [(group["group"], loss["loss"], group) for loss in probes["losses"] for group in loss["groups"]]
    order = list(dict.fromkeys(name for name, _, _ in found))
    return sorted(found, key=lambda each: order.index(each[0]))


def rehearsal_probe_sentences(document: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """A sentence for each group that gained or fell as a whole under a loss."""
    steps = counted(document["steps"], "step")
    return [
        whole_group_sentence(group, group["all_move"], f"After {steps} under {names[loss]}", None)
        for _, loss, group in groups_by_loss(document["probes"])
        if group["all_move"] is not None
    ]


def change_cells(change: Mapping[str, Any], count: int) -> tuple[str, str, str]:
    """Median change, answers that gain, and change per token."""
    return signed(change["change_median"]), f"{change['gains']:,} of {count:,}", signed(change["change_per_token"])


def whole_group_sentence(group: Mapping[str, Any], moves: str, lead: str, style: box.Box | None) -> str:
    """What it means that a whole group gains or falls.

    Args:
        lead: when it happens.
        style: of the medium, to make the group's name harmless in it; None to leave that to the caller.
    """
    name = group["group"] if style is None else escaped(group["group"], style)
    count, own = group["count"], bool(group["answers_are_own"])
    verb = {"gain": "gains" if count == 1 else "gain", "fall": "falls" if count == 1 else "fall"}[moves]
    which = "the only answer" if count == 1 else f"all {counted(count, 'answer')}"
    return f"{lead}, {which} of group {shortened(name, GROUP_WIDTH)} {verb}: {MEANINGS[moves, own]}."


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
