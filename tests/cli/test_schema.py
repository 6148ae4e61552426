"""`entangle schema`: real documents are valid, and broken documents are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.cli.conftest import LONG, MODEL, Entangle


def schema(entangle: Entangle) -> Draft202012Validator:
    outcome = entangle("schema")
    assert outcome.code == 0
    found = json.loads(outcome.out)
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


def test_real_documents_fit(entangle: Entangle, rows_file: Callable[..., Path]) -> None:
    rows = [json.loads(line) for line in LONG.read_text().splitlines()[:3]]
    path = rows_file([*rows, "broken", {**rows[0], "rejected": rows[0]["chosen"]}])
    words = ("--layers", "--include-text", "--unshared-cosine")
    assert entangle("scan", MODEL, path, "-q", "-o", "run", "--json", "run.json", *words).code == 0
    validator = schema(entangle)
    validator.validate(json.loads(Path("run.json").read_text()))
    validator.validate(json.loads(entangle("report", "run", "--format", "json", "--loss", "simpo").out))


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(schema="entangle.other"),
        lambda document: document.update(schema_version="2.0"),
        lambda document: document["pairs"][0].pop("cosine"),
        lambda document: document["pairs"][0].update(cosine="high"),
        lambda document: document["pairs"][0].update(movement="sideways"),
        lambda document: document["pairs"][0].update(index=-1),
    ],
)
def test_broken_documents_do_not(entangle: Entangle, change: Callable[[dict[str, Any]], object]) -> None:
    assert entangle("scan", MODEL, LONG, "--limit", "1", "-q", "-o", "run", "--json", "run.json").code == 0
    document = json.loads(Path("run.json").read_text())
    change(document)
    assert not schema(entangle).is_valid(document)
