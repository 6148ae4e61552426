"""One pair for people: what it does and why, its numbers, and both answers side by side with shared words dimmed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.pair import Movement, Status
from entangle_cli.report.escape import for_terminal
from entangle_cli.report.marks import MARKS, STYLES, WORDS
from entangle_cli.report.summary import place_words

FATES: Mapping[str, tuple[str, str]] = {
    Movement.SEPARATES: ("rises", "falls"),
    Movement.BOTH_FALL: ("falls", "falls"),
    Movement.BOTH_RISE: ("rises", "rises"),
    Movement.REVERSED: ("falls", "rises"),
    Movement.STILL: ("stays", "stays"),
}
"""What happens to the chosen and to the rejected answer."""

SHOWN_CHARACTERS = 4000


def pair_report(document: Mapping[str, Any], loss: str, command: str | None) -> RenderableType:
    """A pair of `diagnose.views.one_pair.pair_document`.

    Args:
        loss: in words.
        command: what shows more of the pair; None if nothing does.
    """
    pair = document["pair"]
    parts: list[RenderableType] = [_heading(pair, loss), Text(f"  {for_terminal(document['why'])}")]
    if pair["cosine"] is None:
        parts += [Text(for_terminal(pair["detail"] or "")), Text()]
    else:
        parts.append(_numbers(pair))
    if pair["status"] == Status.SKIPPED:
        return Group(*parts[:-1])
    if document["text"] is None:
        parts.append(Text("No text in this run: give --data DATA, or scan with --include-text.", style="dim"))
    else:
        parts += _texts(document["text"], pair["movement"])
    if pair["warnings"]:
        parts.append(Text(f"Warnings: {for_terminal(pair['warnings'])}; entangle explain CODE says more"))
    if command is not None:
        parts.append(Text(f"Next   {for_terminal(command)}", style="cyan", no_wrap=True, overflow="ignore"))
    return Group(*parts)


def _heading(pair: Mapping[str, Any], loss: str) -> Text:
    row = "" if pair["line"] is None else f" (row {pair['index']})"
    text = Text(f"{place_words(pair)}{row}", style="bold")
    movement = pair["movement"]
    if movement is None:
        return text.append(f"   {pair['status']}", style="bold")
    text.append(f"   {MARKS[movement]} {WORDS[movement]}", style=STYLES[movement] or "bold")
    doubt = ", uncertain: within the dtype's rounding error" if pair["uncertain"] else ""
    return text.append(f"   on its own first step, {loss}{doubt}", style="not bold")


def _numbers(pair: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for side in ("chosen", "rejected"):
        table.add_column(side, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    rows = (
        ("tokens", "tokens", ",d", f"edit distance {_value(pair['edit_distance'], ',d')}"),
        ("log-prob, nats", "log_prob", ".1f", ""),
        ("gradient norm", "grad_norm", ".3g", f"ratio {_value(pair['norm_ratio'], '.2f')}"),
        ("change per unit lr", "delta", "+.3g", f"cosine {_value(pair['cosine'], '.2f')}"),
    )
    for label, name, form, beside in rows:
        sides = (_value(pair[f"{side}_{name}"], form) for side in ("chosen", "rejected"))
        table.add_row(label, *sides, Text(beside, style="dim"))
    slack = pair["slack"]
    if slack is not None:
        words = "goes the wrong way by" if slack < 0 else "separates with"
        distance = f"{words} a factor of {math.exp(abs(slack)):.4g}"
        table.add_row("slack", f"{slack:+.3g}", "", Text(distance, style="dim"))
    return table


def _value(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _texts(text: Mapping[str, Any], movement: str | None) -> list[RenderableType]:
    fates = FATES[movement] if movement is not None else ("", "")
    table = Table.grid(padding=(0, 3, 0, 0), expand=True)
    for _ in range(2):
        table.add_column(ratio=1, overflow="fold")
    heads = (f"{side.capitalize()} {fate}".rstrip() for side, fate in zip(("chosen", "rejected"), fates, strict=True))
    table.add_row(*(Text(head, style="bold") for head in heads))
    table.add_row(_answer(text["chosen"]), _answer(text["rejected"]))
    prompt = _lines(text["prompt"][-SHOWN_CHARACTERS:])
    return [Text("Prompt", style="bold"), Text(prompt), Text(), table, Text()]


def _answer(pieces: Sequence[Mapping[str, Any]]) -> Text:
    answer, left = Text(), SHOWN_CHARACTERS
    for piece in pieces:
        answer.append(_lines(piece["text"][:left]), style="dim" if piece["is_shared"] else "")
        left -= len(piece["text"])
        if left <= 0:
            return answer.append(" ...")
    return answer


def _lines(text: str) -> str:
    """A text with its line breaks, every line harmless for a terminal."""
    return "\n".join(for_terminal(line) for line in text.split("\n"))
