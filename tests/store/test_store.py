"""Runs on disk: reading returns what was written, even after interruptions."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from entangle_cli.errors import RunError, UnfinishedError, UsageError
from entangle_cli.records.pair import PairRecord
from entangle_cli.records.run import Identity
from entangle_cli.store import writing
from entangle_cli.store.files import uninterrupted
from entangle_cli.store.parts import STORED_FIELDS
from entangle_cli.store.reading import columns_of, newest_run, read_run
from entangle_cli.store.writing import RunWriter

IDENTITY = Identity({"model": {"name": "m"}, "data": {"name": "d.jsonl"}, "settings": {"dtype": "float32"}})
ABOUT: dict[str, Any] = {"loss": {}}


def record(index: int, **values: Any) -> PairRecord:
    return PairRecord(index=index, pair_id=f"{index:x}", status="ok", **values)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    records = [
        record(3, cosine=0.1 + 0.2, inner_product=-1e300, line=4, chosen_truncated=True, format="TRL standard"),
        record(0, cosine=None, reason="zero_gradient", detail="Über \u202e \x00"),
    ]
    with RunWriter.open(tmp_path / "run", IDENTITY, ABOUT) as writer:
        writer.add(records)
    run = read_run(tmp_path / "run")
    assert run.status == "complete"
    assert list(run.columns) == list(STORED_FIELDS)
    assert run.columns["index"].tolist() == [0, 3]
    assert run.columns["cosine"][1] == 0.1 + 0.2
    assert math.isnan(run.columns["cosine"][0])
    assert run.columns["detail"].tolist() == ["Über \u202e \x00", None]
    assert run.columns["chosen_truncated"][1] == 1.0
    in_memory = columns_of(records)
    for name in STORED_FIELDS:
        np.testing.assert_array_equal(in_memory[name], run.columns[name])


def test_texts_that_repeat_are_one_object_in_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PART_ROWS", 5)
    formats = ["hh", "TRL standard", None, "TRL standard", None, None, None, "TRL standard", "hh", "TRL standard"]
    with RunWriter.open(tmp_path, IDENTITY, ABOUT) as writer:
        for index in reversed(range(10)):
            writer.add([record(index, format=formats[index])])
    column = read_run(tmp_path).columns["format"]
    assert column.tolist() == formats
    assert len({id(text) for text in column if text == "TRL standard"}) == 1


def test_parts_are_bounded_and_numbered_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PART_ROWS", 2)

    def written_until_interrupted() -> None:
        with RunWriter.open(tmp_path, IDENTITY, ABOUT) as writer:
            for index in range(5):
                writer.add([record(index)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written_until_interrupted()
    assert read_run(tmp_path).status == "partial"
    with RunWriter.open(tmp_path, IDENTITY, ABOUT) as again:
        assert again.done == set(range(5))
        again.add([record(5)])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [part["file"] for part in manifest["parts"]] == [f"part-{number:06d}.parquet" for number in range(4)]
    assert [part["rows"] for part in manifest["parts"]] == [2, 2, 1, 1]
    assert read_run(tmp_path).columns["index"].tolist() == list(range(6))


def test_a_part_that_no_manifest_lists_does_not_count(tmp_path: Path) -> None:
    """The state after a crash between writing a part and writing the manifest."""
    with RunWriter.open(tmp_path, IDENTITY, ABOUT) as writer:
        writer.add([record(0)])
    part = next((tmp_path / "pairs").glob("*.parquet"))
    (tmp_path / "pairs" / "part-000001.parquet").write_bytes(part.read_bytes()[:100])
    (tmp_path / "pairs" / "part-000002.parquet.tmp").write_bytes(b"half")
    with RunWriter.open(tmp_path, IDENTITY, ABOUT) as again:
        assert again.done == {0}
        again.add([record(1)])
    assert read_run(tmp_path).columns["index"].tolist() == [0, 1]


def test_stored_rows_are_plain_parquet(tmp_path: Path) -> None:
    with RunWriter.open(tmp_path, IDENTITY, ABOUT) as writer:
        writer.add([record(0, cosine=0.5, chosen_tokens=7)])
    table = pyarrow.parquet.read_table(tmp_path / "pairs" / "part-000000.parquet")
    row = table.to_pylist()[0]
    assert (row["cosine"], row["chosen_tokens"], row["rejected_tokens"]) == (0.5, 7, None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_files_are_whole(number: signal.Signals) -> None:
    # A shell starts background jobs with SIGINT ignored, and Python does not change this.
    before = {kind: signal.signal(kind, signal.default_int_handler) for kind in (signal.SIGTERM, signal.SIGINT)}
    reached = []

    def write() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            signal.raise_signal(number)
            reached.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            write()
        assert reached
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@pytest.mark.parametrize("second", [[1], [2, 2]])
def test_a_pair_is_held_once(tmp_path: Path, second: list[int]) -> None:
    def write() -> None:
        with RunWriter.open(tmp_path, IDENTITY, ABOUT) as writer:
            writer.add([record(0), record(1)])
            writer.add([record(index) for index in second])

    with pytest.raises(UnfinishedError, match="a pair was measured twice"):
        write()
    assert read_run(tmp_path).columns["index"].tolist() == [0, 1]


def test_another_identity_is_refused_by_name(tmp_path: Path) -> None:
    RunWriter.open(tmp_path, IDENTITY, ABOUT)
    other = Identity({**IDENTITY.document, "settings": {"dtype": "bfloat16"}})
    with pytest.raises(UsageError, match="different dtype"):
        RunWriter.open(tmp_path, other, {})


@pytest.mark.parametrize(
    "broken",
    [
        {"parts": [{"file": "../../elsewhere.parquet", "rows": 1, "sha256": "0"}]},
        {"parts": [{"file": "part-000000.parquet", "rows": 1}]},
        {"parts": ["part-000000.parquet"]},
        {"status": None},
    ],
)
def test_a_manifest_that_names_no_parts_of_its_run_is_refused(tmp_path: Path, broken: dict[str, Any]) -> None:
    with RunWriter.open(tmp_path, IDENTITY, ABOUT) as writer:
        writer.add([record(0)])
    path = tmp_path / "manifest.json"
    manifest = {**json.loads(path.read_text()), **broken}
    path.write_text(json.dumps({name: value for name, value in manifest.items() if value is not None}))
    with pytest.raises(RunError, match="a manifest written by entangle scan"):
        read_run(tmp_path)


def test_the_newest_run_is_the_one_written_last(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run below"):
        newest_run(tmp_path)
    for name in ("b", "a"):
        with RunWriter.open(tmp_path / name, IDENTITY, ABOUT) as writer:
            writer.add([record(0)])
    assert newest_run(tmp_path) == (tmp_path / "a", [])
    # A run without measured pairs, for example after a wrong --map, does not count as the newest run.
    with RunWriter.open(tmp_path / "c", IDENTITY, ABOUT) as writer:
        writer.add([replace(record(0), status="skipped")])
    assert newest_run(tmp_path) == (tmp_path / "a", [tmp_path / "c"])
    with RunWriter.open(tmp_path / "alone" / "c", IDENTITY, ABOUT) as writer:
        writer.add([replace(record(0), status="skipped")])
    with pytest.raises(RunError, match="1 without a measured pair"):
        newest_run(tmp_path / "alone")
