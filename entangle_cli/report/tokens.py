"""One pair's tokens in a terminal: checks, the heat map, each token's push, and what masking a role would change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.words import counted, percent
from entangle_cli.report.escape import for_terminal
from entangle_cli.report.marks import STYLES, movement_words
from entangle_cli.report.summary import place_words

SHOWN_TOKENS = 40
"""Of each answer in the terminal's heat map and table."""
POSITIVE, NEGATIVE = "░▒▓█", "-=≡#"


def tokens_report(document: Mapping[str, Any], cosines: Any) -> RenderableType:
    """What `diagnose.tokens.pair_tokens` found.

    Args:
        cosines: of the first tokens' gradients, chosen down, rejected across; NaN where there is none.
    """
    pair = document["pair"]
    heading = Text(f"{place_words({'file': None, **pair})}: {concentration_sentence(document)}", style="bold").append(
        f"\n{document['loss']['words']}: predicted changes by pair-sgd, nats per unit learning rate", style="not bold"
    )
    tokens = document["tokens"]
    sides = [[token for token in tokens if token["answer"] == answer] for answer in ("chosen", "rejected")]
    parts: list[RenderableType] = [heading, Text()]
    parts += [_heat_heading(), _heat_map(sides[0], sides[1], cosines), Text()]
    for name, side in zip(("Chosen", "Rejected"), sides, strict=True):
        parts += [Text(f"{name} answer", style="bold"), _token_table(side), Text()]
    parts += [Text("Inner product by role", style="bold"), _role_table(document["roles"]), Text()]
    parts += [
        Text("If a role's tokens were left out of the loss", style="bold"),
        _mask_table(document["masks"]),
        Text(),
    ]
    parts += [Text("Self-check", style="bold"), _checks(document["checks"])]
    return Group(*parts)


def concentration_sentence(document: Mapping[str, Any]) -> str:
    """How much of the inner product few pairs of tokens make up."""
    found = document["concentration"]
    if found is None:
        return "the gradients do not overlap: their inner product is not positive"
    pairs = f"{counted(found['token_pairs'], 'token pair')} of {found['of']:,}"
    return f"{percent(min(1.0, found['share']))} of the inner product comes from {pairs}"


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, heading in enumerate(headings):
        # In a terminal that is too narrow a number is folded, never cut.
        table.add_column(heading, justify="right" if place else "left", overflow="fold")
    return table


def _checks(checks: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("sums over tokens", "from tokens", "as a scan measures", "relative difference")
    for check in checks:
        measured = check["measured"]
        difference = "-" if not measured else f"{abs(check['from_tokens'] - measured) / abs(measured):.1e}"
        table.add_row(
            check["name"], f"{check['from_tokens']:.6g}", "-" if measured is None else f"{measured:.6g}", difference
        )
    return table


def _heat_heading() -> Text:
    return Text("Cosines of tokens' gradients", style="bold").append(
        f", chosen down, rejected across: {POSITIVE} positive, {NEGATIVE} negative, from 0 to 1 in quarters",
        style="not bold",
    )


def _heat_map(
    chosen: Sequence[Mapping[str, Any]], rejected: Sequence[Mapping[str, Any]], cosines: Any
) -> RenderableType:
    width = max((len(visible(token["text"])) for token in chosen[:SHOWN_TOKENS]), default=0)
    lines = []
    for row, token in enumerate(chosen[:SHOWN_TOKENS]):
        line = Text(visible(token["text"]).rjust(width) + " ")
        for column in range(min(len(rejected), SHOWN_TOKENS)):
            mark, style = _mark(float(cosines[row, column]))
            line.append(mark, style=style)
        lines.append(line)
    left = max(0, len(chosen) - SHOWN_TOKENS), max(0, len(rejected) - SHOWN_TOKENS)
    if any(left):
        lines.append(Text(f"{left[0]} more down, {left[1]} across: --format html shows all", style="dim"))
    return Group(*lines)


def _mark(cosine: float) -> tuple[str, str]:
    if cosine != cosine:  # no gradient
        return " ", ""
    quarter = min(3, int(4 * abs(cosine)))
    return (POSITIVE[quarter], "dark_orange3") if cosine > 0 else (NEGATIVE[quarter], "blue")


def _token_table(side: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("token", "role", "log-prob", "norm", "Δ", "pushes\nchosen", "pushes\nrejected")
    for token in side[:SHOWN_TOKENS]:
        table.add_row(
            Text(visible(token["text"])),
            token["role"],
            f"{token['log_prob']:.3f}",
            f"{token['grad_norm']:.3g}",
            *(f"{token[name]:+.3g}" for name in ("delta", "pushes_chosen", "pushes_rejected")),
        )
    if len(side) > SHOWN_TOKENS:
        table.add_row(Text(f"{len(side) - SHOWN_TOKENS} more", style="dim"))
    return table


def visible(text: str) -> str:
    """A token in brackets, which show its blanks; line breaks and invisible characters as their codes."""
    return "[" + for_terminal(text.replace("\n", "\\n")) + "]"


def _role_table(roles: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("chosen", "rejected", "inner product", "token pairs")
    for part in roles:
        table.add_row(part["chosen"], part["rejected"], f"{part['inner_product']:+.4g}", f"{part['of']:,}")
    return table


def _mask_table(masks: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("left out", "tokens", "chosen Δ", "rejected Δ", "movement")
    for case in masks:
        movement = case["movement"]
        table.add_row(
            case["masked"] or "nothing",
            f"{case['tokens']:,}",
            f"{case['chosen_delta']:+.3g}",
            f"{case['rejected_delta']:+.3g}",
            Text(movement_words(movement), style=STYLES[movement]),
        )
    return table
