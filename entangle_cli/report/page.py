"""What every page is made of: one file, which loads nothing, works without scripts, and carries the policy for that.

Templates escape whatever they are given. Styles and scripts are ours alone, allowed by hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from io import TextIOWrapper
from typing import IO, Any

import jinja2
from markupsafe import Markup

from entangle_cli.records.words import counted, percent
from entangle_cli.report.escape import for_terminal
from entangle_cli.report.marks import MARKS, WORDS


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("entangle_cli.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(stream: IO[str], template: str, title: str, data: Any, values: Mapping[str, Any]) -> None:
    """Write a page from a template.

    Args:
        data: for the page's script.
        values: for the template; texts are made harmless.
    """
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding="utf-8")  # which the page says that it is
    environment = _environment()
    style, script = (_unindented(_source(environment, name)) for name in ("page.css", "page.js"))
    style += WIDTHS
    page = environment.get_template(template)
    for piece in page.generate(
        title=plain(title),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=data,
        marks=MARKS,
        words=WORDS,
        percent=percent,
        counted=counted,
        legend=lambda: LEGEND,
        **{name: plain(value) for name, value in values.items()},
    ):
        stream.write(piece)


WIDTHS = "".join(f".w{share}{{flex-grow:{share}}}" for share in range(1, 101))
"""Classes of a bar's segments by their per cent: the page's policy allows no style attributes."""

LEGEND = Markup("".join(f'<span class="key {name}"></span>{words}' for name, words in WORDS.items() if name != "still"))


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _unindented(source: str) -> str:
    """A source without indentation and blank lines, which make up a tenth of it."""
    return "\n".join(line.strip() for line in source.splitlines() if line.strip())


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def plain(value: Any) -> Any:
    """A value whose texts have no invisible and direction-changing characters; line breaks are kept."""
    if isinstance(value, Markup | Enum) or value is None:
        return value
    if isinstance(value, str):
        return "\n".join(map(for_terminal, value.split("\n")))
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
