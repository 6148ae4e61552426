"""Pages: one file each, which loads nothing, works without scripts, and carries the policy that holds it to that.

Markup is made by templates that escape whatever they are given; styles and scripts are ours alone, allowed by hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from typing import IO, Any

import jinja2
from markupsafe import Markup

from entangle_cli.records.pair import MOVEMENT_MEANINGS, Movement
from entangle_cli.records.run import Notice, Run
from entangle_cli.report import figures
from entangle_cli.report.comparison import comparison_sentence, differences_sentence
from entangle_cli.report.escape import for_terminal
from entangle_cli.report.terminal import verdict_sentence
from entangle_cli.report.words import counted

SHOWN_CHARACTERS = 600
MOVEMENTS = [movement.value for movement in Movement]


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("entangle_cli.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def plotly_script() -> str | None:
    """The script of the `report` extra; None where it is not installed, and figures are SVG alone."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return None
    return str(get_plotlyjs())


def _write(
    stream: IO[str], template: str, title: str, data: Any, values: Mapping[str, Any], plotly: str | None = None
) -> None:
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding="utf-8")  # which the page says that it is
    environment = _environment()
    style, script = (_source(environment, name) for name in ("page.css", "page.js"))
    page = environment.get_template(template)
    for piece in page.generate(
        title=_plain(title),
        style=Markup(style),
        script=Markup(script),
        plotly=None if plotly is None else Markup(plotly),
        plotly_hash=None if plotly is None else _hash(plotly),
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=data,
        **{name: _plain(value) for name, value in values.items()},
    ):
        stream.write(piece)


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _plain(value: Any) -> Any:
    """Text without invisible and direction-changing characters, wherever it stands; line breaks are kept."""
    if isinstance(value, Markup) or value is None:
        return value
    if isinstance(value, str):
        return "\n".join(map(for_terminal, value.split("\n")))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_plain(item) for item in value]
    return value


def write_report_page(
    stream: IO[str],
    run: Run,
    summary: Mapping[str, Any],
    loss: str,
    notices: Sequence[Notice],
    worst: Sequence[Mapping[str, Any]],
    skipped: Sequence[Mapping[str, Any]],
    comparison: Mapping[str, Any],
    data: Any,
    verdict: Any,
) -> None:
    """The report of a run as a page.

    Args:
        loss: in words.
        worst, skipped: rows to list.
        comparison: of all losses; see `analysis.loss_comparison`.
        data: what is drawn; see `diagnose.views.page_data`.
        verdict: a gate's, or None.
    """
    title = f"{run.identity.model_name} on {run.identity.data_name}"
    status = summary["status"]
    measured = counted(summary["pairs"], "pair")
    counts = f"{measured} measured, {status['skipped']:,} skipped, {status['undefined']:,} undefined"
    scale = figures.MapScale.of(data.log_ratios, data.cosines)
    values = {
        "heading": title,
        "status": run.status,
        "verdict": verdict_sentence(summary, loss),
        "counts": f"{counts}; {run.identity.dtype} on {run.manifest['environment']['device']}",
        "loss": loss,
        "notices": [{"code": notice.code, "count": notice.count, "message": notice.message} for notice in notices],
        "summary": summary,
        "meanings": {name.value: meaning for name, meaning in MOVEMENT_MEANINGS.items()},
        "gate": verdict,
        "losses": [view.words for view in data.losses],
        "map": figures.movement_map(scale, data.log_ratios, data.cosines, data.movements, data.shown),
        "map_words": _map_words(data),
        "histograms": [
            {
                "svg": figures.histogram_bars(each.edges, each.counts, each.field),
                "words": each.field + (f"; {each.outside:,} pairs beyond" if each.outside else ""),
            }
            for each in data.distributions
        ],
        "against": [
            {"svg": figures.share_bars(each.rows, MOVEMENTS, each.field), "words": each.field}
            for each in data.grouped
            if each.rows
        ],
        "worst": worst,
        "has_text": any(row["chosen_text"] is not None for row in worst),
        "skipped": skipped,
        "comparison": comparison,
        "manifest": json.dumps(run.manifest, indent=1, ensure_ascii=True),
        "shortened": _shortened,
    }
    _write(stream, "report.html", f"{title}: entangle", _switch_data(data, scale), values, plotly_script())


def _map_words(data: Any) -> str:
    total, shown = len(data.movements), len(data.shown)
    words = "Each point is a pair; colours are movements."
    if shown < total:
        words += f" {shown:,} of {total:,} pairs are points, the worst and a random part; squares count all of them."
    unplaced = sum(not math.isfinite(value) for value in data.log_ratios)
    return words + (f" {unplaced:,} pairs have a coefficient of zero or below, and no place." if unplaced else "")


def _switch_data(data: Any, scale: figures.MapScale) -> dict[str, Any]:
    """What the loss switch needs: places in the map and movements of the shown points."""
    views = []
    for place, view in enumerate(data.losses):
        shares = ", ".join(f"{name} {share:.1%}" for name, share in view.shares.items())
        views.append(
            {
                "own": place == 0,
                "words": shares,
                "log_ratio": [round(x, 3) if math.isfinite(x) else None for x in view.log_ratios.tolist()],
                "x": [round(scale.across(x), 1) if math.isfinite(x) else None for x in view.log_ratios.tolist()],
                "movement": [MOVEMENTS.index(name) if name in MOVEMENTS else 4 for name in view.movements],
            }
        )
    heights = [float(data.cosines[place]) for place in data.shown]
    return {
        "movements": MOVEMENTS,
        "edge": scale.edge,
        "lowest": scale.lowest,
        "rows": [data.rows[place] for place in data.shown],
        "cosine": [round(y, 4) if math.isfinite(y) else None for y in heights],
        "y": [round(scale.down(y), 1) if math.isfinite(y) else None for y in heights],
        "losses": views,
    }


def _shortened(text: str | None) -> str:
    text = text or ""
    half = SHOWN_CHARACTERS // 2
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:half]} [...] {text[-half:]}"


def write_tokens_page(stream: IO[str], document: Mapping[str, Any], cosines: Any) -> None:
    """One pair's tokens as a page; see `diagnose.tokens`."""
    num_chosen = sum(token["answer"] == "chosen" for token in document["tokens"])
    values = {"document": document, "heat": figures.heat_map(cosines, num_chosen)}
    _write(stream, "tokens.html", f"Pair {document['pair']['index']} of {document['data']}: tokens", {}, values)


def write_comparison_page(stream: IO[str], document: Mapping[str, Any]) -> None:
    """Runs compared as a page; see `diagnose.views.comparing`."""
    bars = [
        (f"run {number}", [run["movements"][name]["rate"] or 0.0 for name in MOVEMENTS])
        for number, run in enumerate(document["runs"], start=1)
    ]
    values = {
        "document": document,
        "verdict": comparison_sentence(document),
        "differences": differences_sentence(document) if document["differences"] else "",
        "bars": figures.share_bars(bars, MOVEMENTS, "Shares of each run"),
    }
    _write(stream, "comparison.html", "Runs compared: entangle", {}, values)
