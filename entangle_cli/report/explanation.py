"""Explanations and topics for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.text import Text


def explanations_report(explanations: Sequence[Any]) -> RenderableType:
    """What a name stands for, one paragraph each.

    Args:
        explanations: with `name`, `kind`, `text` and `topic`.
    """
    parts = []
    for one in explanations:
        text = Text(one.name, style="bold")
        text.append(f"  ({one.kind})\n{one.text.replace('`', '')}\n", style="not bold")
        text.append(f"more: entangle explain {one.topic}\n", style="not bold dim")
        parts.append(text)
    return Group(*parts)


def topic_report(text: str) -> RenderableType:
    """A topic of the documentation."""
    return Markdown(text, hyperlinks=False)


def topics_report(topics: Sequence[str]) -> RenderableType:
    """The names of the topics."""
    lines = ["Topics: " + ", ".join(topics)]
    lines.append(
        "Also: a warning's code, a field, a loss, a metric, a command, an option, a skip reason or an exit code."
    )
    lines.append("For example: entangle explain losses, entangle explain W-BOUNDARY, entangle explain both_fall_rate")
    return Text("\n".join(lines))
