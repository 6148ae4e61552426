"""A run as a notebook shows it: its verdict, and a bar of its pairs by movement."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Any

from entangle_cli.records.pair import Movement
from entangle_cli.records.run import Run
from entangle_cli.report.escape import for_terminal


def notebook_html(run: Run, summary: Mapping[str, Any], verdict: str) -> str:
    """A fragment of HTML without scripts; texts of the run are escaped."""
    title = f"{run.identity.model_name} on {run.identity.data_name}"
    parts = []
    for movement, colour in _colours().items():
        share = summary["movements"][movement.value]["rate"] or 0.0
        if share:
            words = f"{movement.value.replace('_', ' ')} {share:.1%}"
            style = f"width:{share:.4%};background:{colour};height:1em;display:inline-block"
            parts.append(f'<span style="{style}" title="{words}"></span>')
    return (
        f"<div><strong>{escape(for_terminal(title))}</strong><br>{escape(for_terminal(verdict))}"
        f'<div style="width:100%;max-width:40em;line-height:0;margin-top:.4em">{"".join(parts)}</div></div>'
    )


def _colours() -> dict[Movement, str]:
    """Of the page, in its light form."""
    css = resources.files("entangle_cli.report.templates").joinpath("page.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", css.partition("}")[0]))
    return {movement: light[movement.value] for movement in Movement}
