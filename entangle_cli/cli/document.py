"""Writes a document that is not a run, in one of its formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import IO, Any

from rich import box
from rich.console import RenderableType

from entangle_cli.cli.options import DocumentFormat
from entangle_cli.report.consoles import show
from entangle_cli.report.markdown import print_markdown
from entangle_cli.report.rows import write_json


def write_document(
    stream: IO[str],
    kind: DocumentFormat,
    document: dict[str, Any],
    title: str,
    report: Callable[[Mapping[str, Any], box.Box], RenderableType],
    write_page: Callable[[IO[str], Mapping[str, Any]], None],
) -> None:
    """Write a document.

    Args:
        title: heading in Markdown.
        report: the document for the terminal and for Markdown, by the style of its tables.
        write_page: writes the document as HTML.
    """
    match kind:
        case DocumentFormat.TERMINAL:
            show(stream, report(document, box.SIMPLE_HEAD))
        case DocumentFormat.MARKDOWN:
            print_markdown(stream, title, report, document)
        case DocumentFormat.HTML:
            write_page(stream, document)
        case DocumentFormat.JSON:
            write_json(stream, document)
