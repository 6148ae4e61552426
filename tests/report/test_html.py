"""Pages: they load nothing, enforce their policy, escape hostile text, and open in a browser without errors."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from entangle_cli.report import html
from tests.cli.conftest import LONG, MODEL, Entangle
from tests.report.browser import needs_chromium, open_page

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e{{ 7*7 }}&amp;=1+1\n::error::x @team"
)


class Tags(HTMLParser):
    """Every tag and attribute of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_rows() -> list[dict[str, str]]:
    return [{"prompt": HOSTILE, "chosen": " a" + HOSTILE, "rejected": " b" + HOSTILE}] + [
        json.loads(line) for line in LONG.read_text().splitlines()[:12]
    ]


@pytest.fixture
def page(entangle: Entangle, rows_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """The report of a run with hostile text, as SVG alone."""
    monkeypatch.setattr(html, "plotly_script", lambda: None)
    path = rows_file([*hostile_rows(), {HOSTILE: 1}])
    outcome = entangle("scan", MODEL, path, "-q", "-o", "run", "--include-text", "--layers")
    assert outcome.code == 0, outcome.err
    outcome = entangle("report", "run", "--format", "html", "--fail-if", "both_fall_rate > 0.9")
    assert outcome.code == 0, outcome.err
    return outcome.out


def test_it_loads_nothing_and_runs_nothing_else(page: str) -> None:
    tags = Tags(page)
    for tag, attributes in tags.found:
        assert tag not in {"link", "iframe", "object", "embed", "img", "form", "base", "audio", "video"}
        assert not {"src", "href", "srcset", "action", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    assert [attributes.get("type") for tag, attributes in tags.found if tag == "script"] == ["application/json", None]


def test_its_policy_allows_its_own_style_and_script_alone(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    allowed = dict(part.split(" ", 1) for part in unescape(policy[1]).split("; "))
    assert allowed["default-src"] == "'none'"
    for name, pattern in (("style-src", r"<style>(.*?)</style>"), ("script-src", r"<script>(.*?)</script>\s*</body>")):
        content = re.search(pattern, page, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert allowed[name] == f"'sha256-{digest}'"


def test_hostile_text_is_text(page: str) -> None:
    tags = Tags(page)
    assert "alert(2)" in tags.text
    assert "{{ 7*7 }}" in tags.text
    assert "\\u202e" in tags.text
    assert not set(page) & {"\x1b", "\u202e"}


def test_it_says_what_the_terminal_says(page: str, entangle: Entangle) -> None:
    text = " ".join(Tags(page).text.split())
    verdict = " ".join(entangle("report", "run").out.split("Verdict")[1].split())
    assert verdict in text
    assert "The gate passed" in text
    assert "block 0 MLP" in text
    assert "1 skipped" in text


def test_tables_and_figures_have_names(page: str) -> None:
    tags = Tags(page).found
    assert all(
        attributes.get("aria-label") or attributes.get("aria-labelledby") for tag, attributes in tags if tag == "svg"
    )
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    assert tags[0] == ("html", {"lang": "en"})


def test_the_map_shows_every_pair_where_it_belongs(page: str) -> None:
    circles = re.findall(r'<circle class="(\w+)" cx="([\d.]+)" cy="([\d.]+)"', page)
    assert len(circles) == 13
    data = json.loads(re.search(r'id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    own = data["losses"][0]
    for (movement, across, down), number, x, y in zip(circles, own["movement"], own["x"], data["y"], strict=True):
        assert movement == data["movements"][number]
        assert (float(across), float(down)) == (x, y)
    for loss in data["losses"]:
        for log_ratio, cosine, number in zip(loss["log_ratio"], data["cosine"], loss["movement"], strict=True):
            margin = abs(cosine * 2.718281828 ** abs(log_ratio) - 1) if log_ratio is not None else 0
            if margin > 1e-2:  # away from the boundary, which depends on rounding
                expected = (
                    "separates"
                    if cosine < 2.718281828 ** -abs(log_ratio)
                    else ("both_rise", "both_fall")[log_ratio < 0]
                )
                assert data["movements"][number] == expected


def test_a_run_without_a_pair_has_a_page(entangle: Entangle, rows_file: Callable[..., Path]) -> None:
    entangle("scan", MODEL, rows_file([{"prompt": "a", "chosen": "b", "rejected": "b"}]), "-q", "-o", "run")
    for output in ("html", "markdown"):
        outcome = entangle("report", "run", "--format", output)
        assert outcome.code == 0, outcome.err
        assert "no pair was measured" in outcome.out


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_browser_opens_it_without_a_complaint(page: str, tmp_path: Path, width: int, dark: bool) -> None:
    (tmp_path / "page.html").write_text(page)
    opened = open_page(tmp_path / "page.html", width=width, dark=dark)
    assert opened.console == []
    assert 'class="scripted"' in opened.dom


@needs_chromium
def test_a_script_that_is_not_ours_is_refused(page: str, tmp_path: Path) -> None:
    """Shows that the test above would detect a foreign script."""
    (tmp_path / "page.html").write_text(page.replace("</main>", "<script>document.title = 'pwned'</script></main>"))
    opened = open_page(tmp_path / "page.html")
    assert any("Content Security Policy" in message for message in opened.console)
    assert "<title>pwned" not in opened.dom


@needs_chromium
@pytest.mark.parametrize("with_plotly", [False, True])
def test_the_loss_is_switched_in_place(
    entangle: Entangle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, with_plotly: bool
) -> None:
    if not with_plotly:
        monkeypatch.setattr(html, "plotly_script", lambda: None)
    source = html._source

    def with_a_click(environment: Any, name: str) -> str:
        click = "\nchoice.value = '1'; choice.dispatchEvent(new Event('change'));"
        return source(environment, name) + (click if name == "page.js" else "")

    monkeypatch.setattr(html, "_source", with_a_click)
    entangle("scan", MODEL, LONG, "--limit", "8", "-q", "-o", "run")
    text = entangle("report", "run", "--format", "html").out
    assert len(text) < 10_000_000
    (tmp_path / "page.html").write_text(text)
    data = json.loads(re.search(r'id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    opened = open_page(tmp_path / "page.html")
    assert opened.console == []
    assert data["losses"][1]["words"] in opened.dom
    circles = re.findall(r'<circle class="\w+" cx="([\d.]+)"', opened.dom)
    assert list(map(float, circles)) == data["losses"][1]["x"]
    assert ('class="main-svg"' in opened.dom) is with_plotly


def test_a_terminal_of_another_encoding_gets_a_page_all_the_same(entangle: Entangle, tmp_path: Path) -> None:
    entangle("scan", MODEL, LONG, "--limit", "2", "-q", "-o", "run")
    for output in ("html", "terminal", "markdown"):
        done = subprocess.run(
            [sys.executable, "-m", "entangle_cli", "report", "run", "--format", output],
            env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(MODEL.parents[1])},
            capture_output=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert "Δ" in done.stdout.decode("utf-8") if output == "html" else done.stdout
