"""Reports as Markdown, for a pull request: the terminal's message in about forty lines, text made harmless."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from rich import box
from rich.console import Console, RenderableType

from entangle_cli.records.overview import Overview
from entangle_cli.records.pair import Movement
from entangle_cli.records.words import last_turn, percent
from entangle_cli.report.escape import for_markdown, for_terminal
from entangle_cli.report.marks import HARMS, MARKS, WORDS
from entangle_cli.report.notes import first_steps, notes
from entangle_cli.report.summary import data_set_lines, place_words, shortened

WIDTH = 10_000
"""No line is broken."""

BAR = 20
"""Characters of a bar of 100 %."""

NUM_WORST, NUM_NOTICES, NUM_STEPS = 3, 4, 5
PROMPT_CHARACTERS = 80


def print_markdown(
    stream: IO[str],
    title: str,
    render: Callable[[Mapping[str, Any], box.Box], RenderableType],
    document: Mapping[str, Any],
) -> None:
    """Any report that can draw its tables in a given style."""
    stream.write(f"### {for_markdown(title)}\n\n")
    console = Console(file=stream, width=WIDTH, highlight=False, markup=False, emoji=False, color_system=None)
    with console.capture() as capture:
        console.print(render(document, box.MARKDOWN))
    for line in capture.get().split("\n"):
        stream.write(re.sub(r" {2,}", " ", line).rstrip() + "\n")


def write_report_markdown(stream: IO[str], overview: Overview, verdict: Any) -> None:
    """The report of a run.

    Args:
        verdict: a gate's, or None.
    """
    for line in (*_head(overview), *_gate(verdict), *_shares(overview), *_body(overview)):
        stream.write(line + "\n")


def _head(overview: Overview) -> Iterator[str]:
    yield f"### {for_markdown(overview.model)} on {for_markdown(overview.data)}"
    yield ""
    if overview.is_partial:
        yield "**This run is partial.**"
        yield ""
    yield f"**{for_markdown(overview.verdict)}** {for_markdown(overview.scope)}, {for_markdown(overview.loss_words)}"
    yield ""


def _gate(verdict: Any) -> Iterator[str]:
    if verdict is None:
        return
    for result in verdict.results:
        yield f"- **{result.outcome.value.replace('_', ' ')}**: {for_markdown(result.sentence)}"
    yield f"- gate {verdict.outcome.value.replace('_', ' ')}: {for_markdown(verdict.sentence)}"
    yield ""


def _shares(overview: Overview) -> Iterator[str]:
    if not overview.pairs:
        return
    yield "| | pairs | share | | |"
    yield "| --- | ---: | ---: | --- | --- |"
    for share in overview.shares:
        bar = "█" * max(bool(share.count), round(BAR * share.rate))
        name = f"{MARKS[share.movement]} {WORDS[share.movement]}"
        yield f"| {name} | {share.count:,} | {percent(share.rate)} | {bar} | {HARMS.get(share.movement, '')} |"
    yield ""


def _body(overview: Overview) -> Iterator[str]:
    if overview.reasons:
        yield "**Why**"
        yield ""
        yield from (f"- {for_markdown(reason.sentence)}" for reason in overview.reasons)
        yield ""
    if overview.worst:
        yield "**Worst pairs**"
        yield ""
        yield from (_pair(row) for row in overview.worst[:NUM_WORST])
        yield ""
    if overview.data_sets:
        yield from (f"- {for_markdown(line.strip())}" for line in data_set_lines(overview.data_sets))
        yield ""
    if known := list(notes(overview, NUM_NOTICES)):
        yield from (f"- {for_markdown(note)}" for note in known)
        yield ""
    if overview.steps:
        yield "**Next**"
        yield ""
        for step in first_steps(overview.steps, NUM_STEPS):
            yield f"- {for_markdown(step.sentence)} {_code(step.command)}"


def _pair(row: Mapping[str, Any]) -> str:
    mark = MARKS[Movement(row["movement"])]
    words = f"- {for_markdown(place_words(row))} {mark} {for_markdown(row['why'])}"
    if row["prompt_text"] is None:
        return words
    return f"{words} {for_markdown(shortened(' '.join(last_turn(row['prompt_text']).split()), PROMPT_CHARACTERS))}"


def _code(command: str) -> str:
    """A command as code; as text if it holds a backtick, which would end the code."""
    shown = for_terminal(command).replace("@", "@\u200b")
    return for_markdown(command) if "`" in shown else f"`{shown}`"
