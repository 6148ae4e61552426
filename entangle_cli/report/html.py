"""The pages of a run, of one pair's tokens and of a comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import IO, Any

from entangle_cli.records.overview import NextStep, Overview
from entangle_cli.records.pair import MOVEMENT_MEANINGS, WRONG_WAY
from entangle_cli.records.run import Run
from entangle_cli.records.words import counted, percent
from entangle_cli.report import figures
from entangle_cli.report.comparison import comparison_sentence, differences_sentence
from entangle_cli.report.escape import for_terminal
from entangle_cli.report.losses import NUM_NAMED, loss_groups
from entangle_cli.report.marks import MARKS, WORDS
from entangle_cli.report.one_pair import FATES
from entangle_cli.report.page import plain, write_page
from entangle_cli.report.summary import place_words, show_option
from entangle_cli.report.tokens import concentration_sentence, visible

NUM_STEPS = 3
RATIO_SCALE = 500
"""Log ratios are written as whole numbers of this part: fine enough for a map of 600 units."""
MOVEMENTS = [str(movement) for movement in WORDS]
"""In the order of bars and legends."""


def write_report_page(
    stream: IO[str],
    run: Run,
    overview: Overview,
    summary: Mapping[str, Any],
    skipped: Sequence[Mapping[str, Any]],
    comparison: Mapping[str, Any],
    data: Any,
    verdict: Any,
) -> None:
    """The report of a run as a page.

    Args:
        skipped: rows to list that were not measured.
        comparison: of all losses; see `analysis.loss_comparison`.
        data: what is drawn; see `diagnose.views.page_data`.
        verdict: a gate's, or None.
    """
    title = f"{overview.model} on {overview.data}"
    scale = figures.MapScale.holding(data.log_ratios, data.cosines)
    shown = {pair.row: pair for pair in reversed(data.pairs)}
    values = {
        "overview": overview,
        "date": str(run.manifest.get("updated") or "")[:10],
        "shares": _shares(data.losses[0].counts, overview.pairs),
        "losses": data.losses,
        "gate": verdict,
        "unmeasured": sum(overview.not_measured.values()),
        "map": figures.movement_map(scale, data.log_ratios, data.cosines, data.shown, data.losses[0].movements),
        "map_words": _map_words(data),
        "has_text": any(pair.prompt is not None for pair in data.pairs),
        "worst": [_listed(row, shown.get(row["index"])) for row in overview.worst],
        "steps": _first_and_more(overview.steps),
        "order": MOVEMENTS,
        "run": overview.run_words,
        "groups": _loss_lines(comparison, data.losses),
        "factors": [_factor(each, counts) for each, counts in zip(data.factors, data.losses[0].factors, strict=True)],
        "blocks": _blocks(summary["layers"]),
        "summary": summary,
        "skipped": skipped,
        "histograms": [
            {
                "svg": figures.histogram_bars(each.edges, each.counts, each.field),
                "words": each.field + (f"; {counted(each.outside, 'pair')} beyond" if each.outside else ""),
            }
            for each in data.distributions
        ],
        "meanings": {name.value: meaning for name, meaning in MOVEMENT_MEANINGS.items()},
        "manifest": json.dumps({**run.manifest, "parts": len(run.manifest["parts"])}, indent=1, ensure_ascii=True),
    }
    write_page(stream, "report.html", f"{title}: entangle", _script_data(data, scale, overview), values)


def _first_and_more(steps: Sequence[NextStep]) -> tuple[Sequence[NextStep], Sequence[NextStep]]:
    """Three steps, the last of them the forecast; and the others."""
    if len(steps) <= NUM_STEPS:
        return steps, []
    return [*steps[: NUM_STEPS - 1], steps[-1]], steps[NUM_STEPS - 1 : -1]


def _shares(counts: Mapping[str, int], pairs: int) -> list[tuple[str, float]]:
    return [(name, counts[name] / pairs) for name in MOVEMENTS] if pairs else []


def _listed(row: Mapping[str, Any], pair: Any) -> dict[str, Any]:
    return {
        "row": row,
        "place": place_words(row),
        "option": show_option(row),
        "prompt": None if pair is None else pair.prompt,
    }


def _loss_lines(comparison: Mapping[str, Any], losses: Sequence[Any]) -> list[dict[str, Any]]:
    """A line for each group of losses: names, shares, what a loss does by design, and where the page has it."""
    index_of = {view.name: index for index, view in enumerate(losses)}
    lines = []
    for group in loss_groups(comparison):
        index = next(index_of[row["name"]] for row in group.rows if row["name"] in index_of)
        notes = dict.fromkeys(row["by_design"] for row in group.rows if row["by_design"])
        named = [row["name"] for row in group.rows]
        more = f"; with it {', '.join(named)}" if len(named) > NUM_NAMED else ""
        shares = _shares(group.counts, comparison["pairs"])
        lines.append(
            {
                "index": index,
                "names": group.name,
                "shares": shares,
                "separates": shares[0][1] if shares else 0.0,
                "note": "; ".join(notes) + more.removeprefix("" if notes else "; "),
            }
        )
    return lines


def _factor(factor: Any, counts: Sequence[Sequence[int]]) -> dict[str, Any]:
    rows = [
        (name, pairs, [(kind, count / pairs) for kind, count in zip(MOVEMENTS, group, strict=True)])
        for (name, pairs), group in zip(factor.groups, counts, strict=True)
    ]
    return {"title": factor.title, "rows": rows, "sentence": _factor_sentence([1 - row[2][0][1] for row in rows])}


def _factor_sentence(shares: Sequence[float]) -> str:
    """How much the share that does not separate changes from the first group to the last."""
    if len(shares) < 2:
        return "All pairs are alike in this."
    return f"{percent(shares[0])} do not separate in the lowest group, {percent(shares[-1])} in the highest."


def _blocks(layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The share of the mean cosine that every block makes up, its attention, MLP and norms together."""
    sums: dict[str, float] = {}
    for row in layers:
        name = " ".join(row["group"].split()[:2]) if row["group"].startswith("block ") else row["group"]
        sums[name] = sums.get(name, 0.0) + (row["cosine_part"] or 0.0)
    total = sum(sums.values())
    if total <= 0:
        return []
    largest = max(map(abs, sums.values()))
    return [
        {"name": name, "share": part / total, "width": max(1, round(100 * abs(part) / largest))}
        for name, part in sums.items()
    ]


def _map_words(data: Any) -> str:
    total, shown = len(data.cosines), len(data.shown)
    words = "Every mark is a pair. Above the curves both log-probs move the same way."
    if shown < total:
        words += f" {shown:,} of {total:,} pairs are drawn, the worst and a random part; squares count all of them."
    unplaced = sum(not math.isfinite(value) for value in data.log_ratios)
    return words + (f" {counted(unplaced, 'pair')} without a place: a coefficient is not positive." if unplaced else "")


def _script_data(data: Any, scale: figures.MapScale, overview: Overview) -> dict[str, Any]:
    """What the page's script needs to show every loss and every pair; numbers as integers, which are short."""
    return {
        "movements": MOVEMENTS,
        "wrong": WRONG_WAY,
        "words": WORDS,
        "marks": MARKS,
        "fates": FATES,
        "shapes": figures.SHAPES,
        "edge": scale.edge,
        "lowest": scale.lowest,
        "left": scale.across(-scale.edge),
        "right": scale.across(scale.edge),
        "top": scale.down(1.0),
        "bottom": scale.down(-1.0),
        "run": for_terminal(overview.run_words),
        "folder": for_terminal(overview.folder_words),
        "forecast": for_terminal(overview.forecast),
        "drawn": len(data.shown) < len(data.cosines),
        "cosine": [_integer(float(data.cosines[place]), 1e4) for place in data.shown],
        "scale": RATIO_SCALE,
        "pairs": [_pair_data(pair) for pair in data.pairs],
        "losses": [
            {
                "verdict": view.verdict,
                "consequence": view.consequence,
                "counts": [view.counts[name] for name in MOVEMENTS],
                "reasons": view.reasons,
                "options": f"--loss {view.name}{view.numbers}",
                "factors": view.factors,
                "ratio": [_integer(ratio, RATIO_SCALE) for ratio in view.log_ratios.tolist()],
                "movement": "".join(str(MOVEMENTS.index(name) if name in MOVEMENTS else 9) for name in view.movements),
            }
            for view in data.losses
        ],
    }


def _integer(value: float, scale: float) -> int | None:
    return round(scale * value) if math.isfinite(value) else None


def _pair_data(pair: Any) -> list[Any]:
    """A pair for the script: row, line, file, tokens of both answers, why, prompt, and both answers.

    Answers are strings that are by turns not shared and shared, or null.
    """
    answers = [None if pieces is None else _alternating(pieces) for pieces in (pair.chosen, pair.rejected)]
    counts = (pair.chosen_tokens, pair.rejected_tokens)
    return [pair.row, pair.line, plain(pair.file), *counts, pair.why, plain(pair.prompt), *answers]


def _alternating(pieces: Sequence[Any]) -> list[str]:
    texts: list[str] = []
    for piece in pieces:
        if piece.is_shared != bool(len(texts) % 2):
            texts.append("")
        texts.append(plain(piece.text))
    return texts


TINTS = 4
"""Shades of a token by how hard it is pushed."""


def write_tokens_page(stream: IO[str], document: Mapping[str, Any], cosines: Any) -> None:
    """One pair's tokens as a page; see `diagnose.tokens`."""
    sides = [[token for token in document["tokens"] if token["answer"] == answer] for answer in ("chosen", "rejected")]
    largest = max((abs(token["delta"]) for token in document["tokens"]), default=0.0) or 1.0
    values = {
        "document": document,
        "sentence": concentration_sentence(document),
        "place": place_words({"file": None, **document["pair"]}),
        "sides": [
            (name, [(token["text"], _tint(token["delta"] / largest)) for token in side])
            for name, side in zip(("Chosen", "Rejected"), sides, strict=True)
        ],
        "heat": figures.heat_map(cosines, [[visible(token["text"]) for token in side] for side in sides]),
    }
    write_page(stream, "tokens.html", f"Pair {document['pair']['index']} of {document['data']}: tokens", {}, values)


def _tint(push: float) -> str:
    """The class of a token by its push, relative to the largest: up or down, in four shades; empty near zero."""
    shade = min(TINTS, math.ceil(abs(push) ** 0.5 * TINTS - 0.5))
    return f"{'up' if push > 0 else 'down'}{shade}" if shade else ""


def write_comparison_page(stream: IO[str], document: Mapping[str, Any]) -> None:
    """Runs compared as a page; see `diagnose.views.comparing`."""
    values = {
        "document": document,
        "verdict": comparison_sentence(document),
        "differences": differences_sentence(document) if document["differences"] else "",
        "bars": [
            (
                f"{run['model']} on {run['data']}, {run['loss']['words']}",
                [(name, run["movements"][name]["rate"] or 0.0) for name in MOVEMENTS],
            )
            for run in document["runs"]
        ],
        "changed": [{**row, "place": place_words(row)} for row in document["changed"]],
        "is_training": all(run["training_step"] is not None for run in document["runs"]),
    }
    write_page(stream, "comparison.html", "Runs compared: entangle", {}, values)
