"""Markdown for pull request comments: the text of the terminal report, without active content."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import entangle_cli
from entangle_cli.report.escape import for_markdown
from tests.cli.conftest import LONG, MODEL, Entangle
from tests.report.test_html import HOSTILE, hostile_rows


@given(st.text())
def test_text_comes_out_as_it_was(text: str) -> None:
    """Rendered, it is one paragraph of text without a tag inside."""
    rendered = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render("x" + for_markdown(text) + "x")
    assert re.fullmatch(r"<p>x[^<]*x</p>\n", rendered)


def test_a_report_of_a_hostile_run(entangle: Entangle, rows_file: Callable[..., Path]) -> None:
    assert entangle("scan", MODEL, rows_file([*hostile_rows(), {HOSTILE: 1}]), "-q", "-o", "run", "--layers").code == 0
    out = entangle("report", "run", "--format", "markdown", "--fail-if", "pairs < 5").out
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(out)
    assert sum(token.type == "table_open" for token in tokens) == 1
    inline = [child.type for token in tokens for child in token.children or []]
    assert not {"html_inline", "link_open", "image"} & set(inline)
    assert not any(token.type == "html_block" for token in tokens)
    assert not re.search(r"^::", out, re.MULTILINE)
    assert "gate passed" in out


def test_it_carries_the_terminals_message_in_forty_lines(entangle: Entangle) -> None:
    entangle("scan", MODEL, LONG, "--limit", "8", "-q", "-o", "run", "--include-text")
    out = entangle("report", "run", "--format", "markdown", "--fail-if", "pairs < 5").out
    plain = out.replace("\\", "")
    run = entangle_cli.read("run")
    assert run.verdict in plain
    assert len(out.splitlines()) <= 40
    for reason in run.reasons:
        assert reason.sentence in plain
    assert plain.count("- line ") == min(3, len(run.overview.worst))
    for step in run.next_steps[:4]:
        assert f"`{step.command}`" in plain
    assert "| ▼ both fall |" in out
