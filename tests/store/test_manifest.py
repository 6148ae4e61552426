"""Untrusted manifests: every entry of the wrong type is named, without side effects."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from entangle_cli.diagnose.views.whole_run import refuse_missing_rows
from entangle_cli.errors import RunError
from entangle_cli.records.pair import PairRecord
from entangle_cli.records.run import Identity
from entangle_cli.store.manifest import NEEDED, OPTIONAL, first_wrong
from entangle_cli.store.reading import newest_run, read_run
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


@pytest.mark.parametrize(
    ("text", "problem"), [("", "an empty file"), ('{"schema":\n ]', "broken JSON at line 2, column 2")]
)
def test_a_damaged_manifest_is_described(run: Path, text: str, problem: str) -> None:
    (run / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=problem):
        read_run(run)


def test_rows_that_a_manifest_claims_are_not_allocated(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["parts"][0]["rows"] = 10**12
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="as in the manifest"):
        read_run(run)


@pytest.mark.parametrize("settings", [{}, {"sample": 5 * 10**8}, {"limit": 10**9}])
def test_rows_that_an_identity_claims_are_not_listed(run: Path, settings: dict[str, int]) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["identity"]["data"]["rows"] = 10**12
    manifest["identity"]["settings"].update(settings)
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="as its manifest says"):
        refuse_missing_rows(read_run(run))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("identity.settings.shard", "9/0"),
        ("identity.settings.shard", "1"),
        ("identity.data.sources", [{}]),
        ("identity.data.sources", [{"name": "d", "rows": "x"}]),
    ],
)
def test_what_a_manifest_says_of_its_data_is_of_the_right_kind(run: Path, path: str, value: Any) -> None:
    assert first_wrong(changed(run, path, value)) == f"{path} is {str(value)[:40]!r}"


def test_every_part_is_listed_once(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "parts": manifest["parts"] * 2}))
    with pytest.raises(RunError, match="parts is"):
        read_run(run)


def change_part(run: Path, change: Callable[[pyarrow.Table], pyarrow.Table]) -> None:
    part = run / "pairs/part-000000.parquet"
    pyarrow.parquet.write_table(change(pyarrow.parquet.read_table(part)), part)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["parts"][0]["sha256"] = hashlib.sha256(part.read_bytes()).hexdigest()
    (run / "manifest.json").write_text(json.dumps(manifest))


def with_number(name: str, number: int) -> Callable[[pyarrow.Table], pyarrow.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, pyarrow.array([number]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_number("index", -(2**63)), "not in range"),
        (with_number("index", -1), "a negative index"),
        (with_number("edit_distance", 2**62), "not in range"),
        (with_number("line", 2**60), "not in range"),
        (lambda table: table.append_column("status", table["status"]), "a duplicate column"),
    ],
)
def test_a_part_holds_possible_numbers(run: Path, change: Any, words: str) -> None:
    change_part(run, change)
    with pytest.raises(RunError, match=words):
        read_run(run)


def test_a_part_that_is_a_pipe_is_not_waited_for(run: Path) -> None:
    (run / "pairs/part-000000.parquet").unlink()
    os.mkfifo(run / "pairs/part-000000.parquet")
    with pytest.raises(RunError, match="missing or changed"):
        read_run(run)
    assert newest_run(run.parent)[0] == run
