"""A run in short: verdict, shares, why, the worst pairs, what to know and what to do, from 60 columns on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from entangle_cli.records.overview import NextStep, Overview
from entangle_cli.records.pair import Movement
from entangle_cli.records.words import counted, last_turn, percent
from entangle_cli.report.consoles import can_show
from entangle_cli.report.escape import for_terminal
from entangle_cli.report.marks import ASCII_MARKS, HARMS, MARKS, STYLES, WORDS
from entangle_cli.report.notes import first_steps, notes

NUM_REASONS, NUM_WORST, NUM_NOTICES, NUM_STEPS = 3, 2, 2, 3

Thing = TypeVar("Thing")

LABEL = 7
"""Columns before the text of a block."""
FULL_BAR = 38
"""Columns of a bar of 100 % in a terminal of 80."""


class Summary:
    """The summary of a run, as rich renders it.

    Args:
        overview: what it shows.
        shows_everything: all reasons, notices and steps instead of the first ones.
    """

    def __init__(self, overview: Overview, *, shows_everything: bool = False) -> None:
        self._overview = overview
        self._shows_everything = shows_everything

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        overview, width = self._overview, options.max_width
        has_blocks = can_show(console, "".join(MARKS.values()) + "█…")
        marks, block = (MARKS, "█") if has_blocks else (ASCII_MARKS, "#")
        yield self._headline()
        yield Text()
        yield Text(f"  {overview.verdict}{self._interval()}", style="bold")
        yield Text()
        if overview.pairs:
            yield from _share_lines(overview, marks, block, width)
            yield Text()
        for label, texts in self._blocks(marks, width - LABEL):
            lines = [line for text in texts for line in _wrapped(text, console, width - LABEL)]
            for number, line in enumerate(lines):
                start = f"{'' if number else label:{LABEL}}"
                yield Text.assemble((start, "bold"), line, no_wrap=True, overflow="ignore")

    def _headline(self) -> Text:
        overview = self._overview
        text = Text(for_terminal(f"{overview.model} on {overview.data}"), style="bold")
        text.append(f"    {overview.scope}, {overview.loss}", style="not bold")
        if overview.is_partial:
            text.append("\nPARTIAL: the same scan command goes on", style="red")
            if overview.rows_missing:
                text.append(f"; {counted(overview.rows_missing, 'row')} to go", style="red")
        return text

    def _interval(self) -> str:
        interval = self._overview.interval
        if interval is None or not self._overview.pairs:
            return ""
        return f" 95 % interval of the share: {percent(interval[0])} to {percent(interval[1])}."

    def _blocks(self, marks: Mapping[str, str], width: int) -> Iterator[tuple[str, Sequence[Text]]]:
        overview = self._overview
        if overview.reasons:
            yield "Why", [Text(for_terminal(reason.sentence)) for reason in self._first(overview.reasons, NUM_REASONS)]
        if overview.worst:
            yield "Worst", [Text(line) for line in worst_lines(overview.worst[:NUM_WORST], marks, width)]
        if overview.data_sets:
            yield "Data", [Text(line) for line in data_set_lines(overview.data_sets)]
        if known := list(notes(overview, None if self._shows_everything else NUM_NOTICES)):
            yield "Note", [Text(for_terminal(note)) for note in known]
        if overview.steps:
            steps = overview.steps if self._shows_everything else first_steps(overview.steps, NUM_STEPS)
            yield "Next", [text for step in steps for text in _step(step, with_setting=self._shows_everything)]
        if overview.place is not None:
            yield "Run", [Text(for_terminal(overview.place), no_wrap=True, overflow="ignore")]
        if overview.place is not None and overview.pairs:
            command = f"entangle report {overview.run_words} --write html=report.html"
            yield "Page", [Text(for_terminal(command), no_wrap=True, overflow="ignore")]

    def _first(self, things: Sequence[Thing], count: int) -> Sequence[Thing]:
        return things if self._shows_everything else things[:count]


def data_set_lines(data_sets: Sequence[tuple[str, int, int]]) -> list[str]:
    """One line for each data set: its share of pairs that go the wrong way, its pairs, its name."""
    return [
        f"{percent(wrong / pairs) if pairs else '-':>5} of {counted(pairs, 'pair')} the wrong way: {for_terminal(name)}"
        for name, pairs, wrong in data_sets
    ]


def _wrapped(text: Text, console: Console, width: int) -> Sequence[Text]:
    """A text in lines of a width; one that must not wrap stays whole."""
    if text.no_wrap:
        return [text]
    lines = text.wrap(console, width)
    for line in lines:
        line.rstrip()
    return list(lines)


def _step(step: NextStep, *, with_setting: bool) -> list[Text]:
    # The command stays in one line in any terminal: it is there to be copied.
    lines = [
        Text(step.sentence),
        Text(f"  {for_terminal(step.command)}", style="cyan", no_wrap=True, overflow="ignore"),
    ]
    if with_setting and step.setting:
        lines.append(Text(f"  TRL: {step.setting}", no_wrap=True, overflow="ignore"))
    return lines


def _share_lines(overview: Overview, marks: Mapping[str, str], block: str, width: int) -> Iterator[Text]:
    digits = max(len(f"{share.count:,}") for share in overview.shares)
    full = max(10, min(FULL_BAR, width - 42 - digits))
    bars = {share.movement: max(1, round(full * share.rate)) if share.count else 0 for share in overview.shares}
    longest = max((bars[share.movement] for share in overview.shares if share.movement in HARMS), default=0)
    for share in overview.shares:
        style, name = STYLES[share.movement], f"{marks[share.movement]} {WORDS[share.movement]:9}"
        text = Text(f"  {name}  {share.count:{digits},}  {percent(share.rate):>5}  ", style=style)
        text.append(block * bars[share.movement])
        if (harm := HARMS.get(share.movement)) is not None:
            blanks = " " * (longest - bars[share.movement] + 2)
            if cell_len(text.plain) + len(blanks) + len(harm) <= width:
                text.append(f"{blanks}{harm}", style="dim")
        yield text


def worst_lines(rows: Sequence[Mapping[str, Any]], marks: Mapping[str, str], width: int) -> list[str]:
    """One line per pair: where it stands, its movement, both lengths, and the prompt's first words or two numbers."""
    heads = []
    for row in rows:
        movement = marks[Movement(row["movement"])]
        heads.append((place_words(row), movement, str(row["chosen_tokens"]), str(row["rejected_tokens"])))
    sizes = [max(len(head[column]) for head in heads) for column in range(4)]
    lines = []
    for row, (place, movement, chosen, rejected) in zip(rows, heads, strict=True):
        line = f"{place:{sizes[0]}} {movement} {chosen:>{sizes[2]}} / {rejected:>{sizes[3]}} tokens  "
        # The reason is a whole sentence. This column would cut it.
        numbers = f"cosine {row['cosine']:.2f}, norm ratio {row['norm_ratio']:.2f}"
        words = numbers if row["prompt_text"] is None else " ".join(last_turn(row["prompt_text"]).split())
        lines.append(line + shortened(for_terminal(words), width - cell_len(line)))
    return lines


def place_words(row: Mapping[str, Any]) -> str:
    """Where a pair stands: by line where the format has lines, else by row; with the file where there are several."""
    words = f"row {row['index']}" if row["line"] is None else f"line {row['line']}"
    words += f", pair {row['pair_in_row']}" if row["pair_in_row"] is not None else ""
    return words if row["file"] is None else for_terminal(f"{row['file']}, {words}")


def show_option(row: Mapping[str, Any]) -> str:
    """How `entangle show` finds a pair, in the terms of `place_words`: a line is unambiguous only within one file."""
    alone = row["line"] is not None and row["file"] is None
    return f"--line {row['line']}" if alone else f"--row {row['index']}"


def shortened(text: str, width: int) -> str:
    """A text cut to a number of columns, with an ellipsis of three dots where it was cut."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 3)).rstrip() + "..." if width > 3 else ""
