"""A manifest that anyone may have written: each entry of the wrong kind is named, and nothing else happens."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from entangle_cli.errors import RunError
from entangle_cli.records.pair import PairRecord
from entangle_cli.records.run import Identity
from entangle_cli.store.manifest import NEEDED, OPTIONAL, first_wrong
from entangle_cli.store.reading import read_run
from entangle_cli.store.writing import RunWriter

IDENTITY = {"model": {"name": "m"}, "data": {"name": "d", "rows": 1}, "settings": {"dtype": "float32"}}
ABOUT = {"loss": {"name": "sigmoid", "beta": 0.1, "options": {}}, "plan": {"num_rows": 1, "num_selected": 1}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with RunWriter.open(tmp_path / "run", Identity(IDENTITY), ABOUT) as writer:
        writer.add([PairRecord(0, "0" * 32, "skipped", "tie")])
    return writer.folder


def changed(run: Path, path: str, value: Any) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    *parents, last = path.split(".")
    place = manifest
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = copy.deepcopy(value)
    return manifest


@pytest.mark.parametrize("path", [*NEEDED, *OPTIONAL])
def test_an_entry_of_the_wrong_kind_is_named(run: Path, path: str) -> None:
    wrong = [1.5, [], {}, True, "x\u0661", -1]
    refused = [value for value in wrong if first_wrong(changed(run, path, value)) is not None]
    assert refused, path
    (run / "manifest.json").write_text(json.dumps(changed(run, path, refused[0])))
    with pytest.raises(RunError, match=path.replace(".", r"\.")):
        read_run(run)


def test_a_whole_manifest_has_nothing_wrong(run: Path) -> None:
    assert first_wrong(json.loads((run / "manifest.json").read_text())) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "[]", "{}", '{"schema": 3}'])
def test_a_manifest_of_another_shape_is_refused(run: Path, text: str) -> None:
    (run / "manifest.json").write_text(text)
    with pytest.raises(RunError):
        read_run(run)


def test_rows_that_a_manifest_claims_are_not_allocated(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["parts"][0]["rows"] = 10**12
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="as the manifest says"):
        read_run(run)
