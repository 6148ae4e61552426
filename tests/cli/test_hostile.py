"""A hostile pair in a file and a model with hostile names: every output shows them as plain text."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from sarif_pydantic import Sarif

from tests.cli.conftest import MODEL, Entangle
from tests.report.test_html import HOSTILE, Tags, hostile_rows

# File names cannot contain a slash, but any other character.
NAME = "=1+1 <img src=x onerror=alert(2)> [bold] \x1b[31m\u202e`|@team ##[add-mask]e\n::error::y"
SECRET = "hf_that_nobody_is_told"
RULE = ("--fail-if", "both_fall_rate > 0.001")


@pytest.fixture
def hostile(entangle: Entangle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model and data, scanned into `run`. One of fourteen rows is not a pair."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    model = shutil.copytree(MODEL, tmp_path / ("model" + NAME))
    data = tmp_path / ("rows" + NAME + ".jsonl")
    data.write_text("".join(json.dumps(row) + "\n" for row in [*hostile_rows(), {HOSTILE: 1}]))
    outcome = entangle("scan", model, data, "-o", "run", "--include-text", "--layers", "--json", "run.json")
    assert outcome.code == 0, outcome.err
    assert_plain(outcome.out)
    assert_plain(outcome.err)
    return model, data


def assert_plain(text: str) -> None:
    """No control characters, no bidi marks, and no line that is a workflow command."""
    odd = {character for character in text if unicodedata.category(character) in ("Cc", "Cf")} - {"\n"}
    assert not odd
    assert not re.search(r"^\s*::", text, re.MULTILINE)
    assert "##[" not in text


def assert_page(text: str) -> None:
    tags = Tags(text)
    assert not {tag for tag, _ in tags.found} & {"img", "iframe", "link", "object", "form"}
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    policy = next(str(found["content"]) for tag, found in tags.found if tag == "meta" and "http-equiv" in found)
    for script in re.findall(r"<script>(.*?)</script>", text, re.DOTALL):
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert not set(text) & {"\x1b", "\u202e"}


def assert_markdown(text: str) -> None:
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(text)
    inline = {child.type for token in tokens for child in token.children or []}
    assert not {"html_inline", "link_open", "image"} & inline
    assert not any(token.type == "html_block" for token in tokens)
    assert "@team" not in text  # a zero-width space prevents the mention
    assert_plain(text.replace("\u200b", ""))


def assert_json(text: str) -> None:
    assert text.isascii()
    assert json.loads(text)


def assert_json_lines(text: str) -> None:
    assert text.isascii()
    assert all(json.loads(line) for line in text.splitlines())


def assert_csv(text: str) -> None:
    rows = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in rows}) == 1
    number = re.compile(r"[-+]?\d[\d.e+-]*")
    for cell in (cell for row in rows for cell in row):
        assert not cell.startswith(("=", "+", "-", "@", "\t")) or number.fullmatch(cell), cell
    assert_plain(text)


def assert_commands(text: str) -> None:
    """Every line is one of our annotations, with complete properties and message."""
    for line in text.splitlines():
        assert re.fullmatch(r"::(error|warning|notice)( [a-z]+=[^:,\n]*(,[a-z]+=[^:,\n]*)*)?::.*", line), line
    assert not set(text) & {"\x1b", "\u202e", "\r"}


def assert_junit(text: str) -> None:
    assert {element.tag for element in ElementTree.fromstring(text).iter()} <= {
        "testsuites", "testsuite", "testcase", "failure", "error", "skipped", "system-out", "properties", "property",
    }  # fmt: skip
    assert not set(text) & {"\x1b", "\u202e"}


def assert_sarif(text: str) -> None:
    Sarif.model_validate_json(text)
    assert "alert%282%29" in text  # the data file's address
    assert_json(text)


CHECKS: dict[str, Callable[[str], None]] = {
    "terminal": assert_plain,
    "text": assert_plain,
    "html": assert_page,
    "markdown": assert_markdown,
    "json": assert_json,
    "jsonl": assert_json_lines,
    "csv": assert_csv,
    "github": assert_commands,
    "junit": assert_junit,
    "sarif": assert_sarif,
}


def outputs(entangle: Entangle, model: Path, data: Path) -> Iterator[tuple[str, str, str]]:
    """Command, format and printed output."""
    commands: dict[str, tuple[tuple[str | Path, ...], tuple[str, ...]]] = {
        "report": (("report", "run"), ("terminal", "html", "markdown", "json", "jsonl", "csv")),
        "losses": (("report", "run", "--losses"), ("terminal",)),
        "gate": (("gate", "run", *RULE), ("text", "json", "markdown", "github", "junit", "sarif")),
        "compare": (("compare", "run", "run"), ("terminal", "html", "markdown", "json")),
        "tokens": (("tokens", model, data, "--row", "0"), ("terminal", "html")),
    }
    for command, (words, formats) in commands.items():
        for name in formats:
            outcome = entangle(*words, "--format", name) if command != "losses" else entangle(*words)
            assert outcome.code == (1 if command == "gate" else 0), (command, name, outcome.err)
            assert_plain(outcome.err)
            yield command, name, outcome.out
    for words in (("inspect", data, "--model", model), ("forecast", model, data, "--limit", "3")):
        outcome = entangle(*words)
        assert outcome.code == 0, outcome.err
        assert_plain(outcome.err)
        yield str(words[0]), "terminal", outcome.out


def test_every_output_of_a_hostile_run(entangle: Entangle, hostile: tuple[Path, Path]) -> None:
    seen = []
    for command, name, out in outputs(entangle, *hostile):
        seen.append((command, name))
        try:
            CHECKS[name](out)
        except AssertionError as error:
            raise AssertionError(f"{command} --format {name}: {error}") from error
        if name in ("html", "json", "jsonl", "csv") and command != "gate":
            assert "alert(2)" in out, f"{command} --format {name} shows nothing of it"
        assert SECRET not in out
    assert len(seen) == 21
    assert_json(Path("run.json").read_text())
    for path in (path for path in Path().rglob("*") if path.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path
    manifest = Path("run/manifest.json").read_text()
    assert json.loads(manifest)["plan"]["data"].endswith(NAME + ".jsonl")


def test_errors_and_rows_that_come_back(entangle: Entangle, hostile: tuple[Path, Path]) -> None:
    _, data = hostile
    for words, code in (
        (("scan", "./no" + NAME, data), 3),
        (("scan", MODEL, "no" + NAME), 3),
        (("report", "no" + NAME), 3),
        (("gate", "run", "--fail-if", HOSTILE), 2),
        (("scan", MODEL, data, "--strict", "-o", "strict"), 3),
    ):
        outcome = entangle(*words)
        assert outcome.code == code
        assert_plain(outcome.err)
        assert len(re.split(r"^error: ", outcome.err, flags=re.MULTILINE)[-1].splitlines()) == 3
    assert entangle("filter", "run", data, "-o", "kept.jsonl", "--keep", "status == ok").code == 0
    kept = Path("kept.jsonl").read_text().splitlines()
    assert kept == data.read_text().splitlines()[:13]
