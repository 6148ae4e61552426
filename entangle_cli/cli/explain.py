"""`entangle explain`: what a name in the output means, and the documentation by topic."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from entangle_cli.cli.options import Debug


def explain(
    name: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]",
            help="A topic, a warning's code, a field, a loss, a metric, a command, an option, a skip reason or an "
            "exit code.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Explain a name in the output, or show a topic of the documentation. Without a name: the topics."""
    from entangle_cli.api import explaining
    from entangle_cli.report.consoles import console_for
    from entangle_cli.report.explanation import explanations_report, topic_report, topics_report

    console = console_for(sys.stdout)
    wanted = " ".join(name or ())
    if not wanted:
        console.print(topics_report(explaining.topics()))
    elif wanted in explaining.topics():
        console.print(topic_report(explaining.topic_text(wanted)))
    else:
        console.print(explanations_report(explaining.explain(wanted)))
