"""Headings, tables and numbers of reports that are drawn in a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from entangle_cli.report.escape import for_markdown, for_terminal

NARROWEST = 80
"""Columns of the narrowest terminal in which tables have room for all of their numbers."""


def escaped(text: str, style: box.Box) -> str:
    """Text made harmless for its medium: Markdown if the tables are, else a terminal."""
    return for_markdown(text) if style is box.MARKDOWN else for_terminal(text)


def heading(word: str, rest: str, style: box.Box) -> Text:
    """A bold word and what follows it."""
    if style is box.MARKDOWN:
        return Text(f"**{word}** {rest}\n")
    return Text(word, style="bold").append(f" {rest}", style="not bold")


class WholeTable(Table):
    """A table that keeps its numbers whole where the terminal is narrower than `NARROWEST`: lines run over its edge."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay out as usual, with the width that is needed up to `NARROWEST`."""
        if options.max_width < NARROWEST:
            natural = Measurement.get(console, options.update(max_width=NARROWEST), self).maximum
            options = options.update(max_width=max(options.max_width, natural))
        yield from super().__rich_console__(console, options)


def empty_table(style: box.Box, *headings: str, words: int = 1) -> Table:
    """A table without rows.

    Args:
        headings: of its columns. Line breaks in them are kept in a terminal.
        words: number of columns with words, the first ones. The others hold numbers, on the right.
    """
    made = WholeTable(box=style, pad_edge=style is box.MARKDOWN, collapse_padding=True)
    for place, name in enumerate(headings):
        shown = name.replace("\n", " ") if style is box.MARKDOWN else name
        made.add_column(shown, justify="left" if place < words else "right", no_wrap=place > 0, overflow="fold")
    return made


def signed(value: float | None) -> str:
    """A number with its sign and three digits; a dash for None."""
    return "-" if value is None else f"{value:+.3g}"


def signed_interval(interval: Sequence[float] | None) -> str:
    """Both ends with their signs; a dash for None."""
    return "-" if interval is None else " to ".join(map(signed, interval))
