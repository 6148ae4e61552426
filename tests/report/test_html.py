"""Pages: they load nothing, enforce their policy, escape hostile text, and open in a browser without errors."""

from __future__ import annotations

import base64
import hashlib
import json
import math
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

import entangle_cli
from entangle_cli.analysis.losses.table import LOSSES
from entangle_cli.records.words import percent
from entangle_cli.report import page as page_parts
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
def page(entangle: Entangle, rows_file: Callable[..., Path]) -> str:
    """The report of a run with hostile text, as SVG alone."""
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
        assert not {"src", "srcset", "action", "style"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")  # type: ignore[union-attr]
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
    shown = entangle("report", "run").out
    assert shown.splitlines()[2].strip() in text
    assert "gate passed" in text
    assert "block 0 MLP" in text
    assert "1 row not measured" in text
    for sentence in entangle_cli.read("run").reasons:
        assert sentence.sentence in text


def test_tables_and_figures_have_names(page: str) -> None:
    tags = Tags(page).found
    assert all(
        attributes.get("aria-label") or attributes.get("aria-labelledby") for tag, attributes in tags if tag == "svg"
    )
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    assert tags[0] == ("html", {"lang": "en"})


def data_of(page: str) -> dict[str, Any]:
    """What the page's script works with."""
    found = re.search(r'id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_map_shows_every_pair_where_it_belongs(page: str) -> None:
    marks = re.findall(r'<path class="(\w+)" d="M(\d+),(\d+)', page.split('id="marks"')[1].split("</g>")[0])
    assert len(marks) == 13
    data = data_of(page)
    for loss in data["losses"]:
        for ratio, cosine, number in zip(loss["ratio"], data["cosine"], loss["movement"], strict=True):
            margin = abs(cosine / 1e4 * math.exp(abs(ratio) / data["scale"]) - 1) if ratio is not None else 0
            if margin > 1e-2:  # away from the boundary, which rounding moves
                inside = cosine / 1e4 < math.exp(-abs(ratio) / data["scale"])
                expected = "separates" if inside else ("both_rise", "both_fall")[ratio < 0]
                assert data["movements"][int(number)] == expected
    own = data["losses"][0]
    assert [movement for movement, *_ in marks] == [data["movements"][int(number)] for number in own["movement"]]
    for (_, across, down), ratio, cosine in zip(marks, own["ratio"], data["cosine"], strict=True):
        inside = min(1.0, max(-1.0, ratio / data["scale"] / data["edge"]))
        assert int(across) == pytest.approx(data["left"] + (inside + 1) / 2 * (data["right"] - data["left"]), abs=1)
        share = (1 - max(data["lowest"], cosine / 1e4)) / (1 - data["lowest"])
        assert int(down) == pytest.approx(data["top"] + share * (data["bottom"] - data["top"]), abs=1)


def test_every_loss_is_the_whole_run_under_it(page: str) -> None:
    run = entangle_cli.read("run")
    data = data_of(page)
    for view, loss in zip(data["losses"], [run.loss.name, *_others(run)], strict=True):
        customary = LOSSES[loss].customary_beta
        seen = run if loss == run.loss.name else run.under(loss, beta=customary)
        assert view["verdict"] == seen.verdict
        assert view["reasons"] == [reason.sentence for reason in seen.reasons]
        assert sum(map(sum, view["factors"][0])) == len([pair for pair in seen if pair.movement])


def _others(run: entangle_cli.Run) -> list[str]:
    return [row["name"] for row in run.losses()["losses"][1:] if row["same_as"] is None]


def contrast(one: str, other: str) -> float:
    """The ratio of two colours' relative luminances, WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_are_told_apart_and_text_can_be_read() -> None:
    css = (Path(page_parts.__file__).parent / "templates/page.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part)) for part in css.split("prefers-color-scheme")[:2])
    for colours in (light, dark):
        for name in ("text", "dim", "link", "both_rise", "both_fall", "reversed"):
            assert contrast(colours[name], colours["paper"]) >= 4.8, name
        for name in ("separates", "both_rise", "both_fall", "reversed"):
            assert contrast(colours[name], colours["on"]) >= 4.8, name
        assert contrast(colours["on_amber"], colours["amber"]) >= 4.8
        # Deuteranopia keeps blue against orange: what is left of a colour there differs in its blue part.
        blue, orange = colours["both_fall"], colours["both_rise"]
        assert int(blue[5:7], 16) - int(orange[5:7], 16) > 90


def test_a_run_without_a_pair_has_a_page(entangle: Entangle, rows_file: Callable[..., Path]) -> None:
    entangle("scan", MODEL, rows_file([{"prompt": "a", "chosen": "b", "rejected": "b"}]), "-q", "-o", "run")
    for output in ("html", "markdown"):
        outcome = entangle("report", "run", "--format", output)
        assert outcome.code == 0, outcome.err
        assert "No pair was measured" in outcome.out


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
def test_the_loss_switches_the_whole_page(entangle: Entangle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = page_parts._source

    def with_a_click(environment: Any, name: str) -> str:
        click = "\nfind('loss').value = '1'; find('loss').dispatchEvent(new Event('change'));"
        return source(environment, name) + (click if name == "page.js" else "")

    entangle("scan", MODEL, LONG, "--limit", "12", "-q", "-o", "run", "--include-text")
    before = entangle("report", "run", "--format", "html").out
    monkeypatch.setattr(page_parts, "_source", with_a_click)
    page = entangle("report", "run", "--format", "html").out
    (tmp_path / "page.html").write_text(page)
    other = data_of(page)["losses"][1]
    opened = open_page(tmp_path / "page.html")
    assert opened.console == []
    heading = re.search(r'<h1 id="verdict"[^>]*>([^<]*)', opened.dom)
    assert heading is not None
    assert heading[1].startswith(other["verdict"])
    names = data_of(page)["movements"]
    assert re.findall(r'<path class="(\w+)', opened.dom.split('id="marks"')[1].split("</g>")[0]) != re.findall(
        r'<path class="(\w+)', before.split('id="marks"')[1].split("</g>")[0]
    )
    marks = opened.dom.split('id="marks"')[1].split("</g>")[0]
    drawn = sorted(re.findall(r'<path class="(\w+)', marks))
    assert drawn == sorted(names[int(number)] for number in other["movement"])
    why = opened.dom.split('id="why"')[1].split("</ul>")[0]
    assert unescape(why).count("<li>") == max(1, len(other["reasons"]))
    count = sum(other["counts"][names.index(name)] for name in ("both_fall", "both_rise", "reversed"))
    assert f">{count} pair" in opened.dom
    assert opened.dom.count('aria-pressed="true"') == 1
    steps = unescape(opened.dom.split('id="steps"')[1].split("</section>")[0])
    assert f"entangle report run {other['options']}" in steps
    assert f"--loss {other['options'].split()[1]}" in steps.split("entangle forecast")[1]
    shares = re.findall(r'class="number">([^<]*)<', opened.dom.split('data-factor="0"')[1].split("</div><p")[0])
    wrong = [1 - counts[0] / sum(counts) for counts in other["factors"][0]]
    assert shares[: len(wrong)] == [percent(share) for share in wrong]


@needs_chromium
def test_arrow_keys_and_a_click_show_a_pair(
    entangle: Entangle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = page_parts._source

    def with_keys(environment: Any, name: str) -> str:
        press = "\nfind('map').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowDown'}));"
        return source(environment, name) + (press if name == "page.js" else "")

    entangle("scan", MODEL, LONG, "--limit", "12", "-q", "-o", "run", "--include-text")
    worst = [row for row in entangle_cli.read("run").worst(12) if row.movement != "separates"]
    monkeypatch.setattr(page_parts, "_source", with_keys)
    (tmp_path / "page.html").write_text(entangle("report", "run", "--format", "html").out)
    panel = open_page(tmp_path / "page.html").dom.split('id="panel"')[1]
    assert f"--line {worst[1].line}<" in panel[: panel.index("Pairs that go the wrong way")]
    assert "Chosen " in panel


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
        assert "●" in done.stdout.decode("utf-8") if output == "html" else done.stdout
