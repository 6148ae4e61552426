"""`scan --shard` and `entangle merge`: the runs of a job array equal the run of one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import LONG, MODEL, Entangle

SCAN = ("scan", MODEL, LONG, "--limit", "11", "-q", "--layers")
NUMBERS = ("cosine", "chosen_log_prob", "rejected_log_prob")


@pytest.fixture
def shards(entangle: Entangle) -> list[str]:
    for number in (1, 2, 3):
        assert entangle(*SCAN, "--shard", f"{number}/3", "-o", f"shard{number}").code == 0
    return ["shard3", "shard1", "shard2"]


def pairs_of(path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(path).read_text())["pairs"]
    return found


def test_the_merged_run_equals_that_of_one_process(entangle: Entangle, shards: list[str]) -> None:
    assert entangle(*SCAN, "-o", "whole", "--json", "whole.json").code == 0
    outcome = entangle("merge", *shards, "-o", "joined")
    assert (outcome.code, outcome.out) == (0, "joined\n")
    joined = json.loads(entangle("report", "joined", "--format", "json").out)
    assert joined["status"] == "complete"
    assert joined["manifest"]["identity"] == json.loads(Path("whole.json").read_text())["manifest"]["identity"]
    assert len(joined["summary"]["layers"]) > 3
    for one, other in zip(joined["pairs"], pairs_of("whole.json"), strict=True):
        assert (one["index"], one["pair_id"]) == (other["index"], other["pair_id"])
        assert [one[name] for name in NUMBERS] == pytest.approx([other[name] for name in NUMBERS], rel=1e-4, abs=1e-5)
    # The command without a shard finds nothing left to do.
    assert "goes on after 11 pairs" in entangle(*[word for word in SCAN if word != "-q"], "-o", "joined").err


def test_incomplete_sets_of_shards_are_refused(entangle: Entangle, shards: list[str]) -> None:
    assert entangle("scan", MODEL, LONG, "--limit", "11", "-q", "-o", "plain").code == 0
    assert entangle(*SCAN, "--shard", "2/3", "--max-length", "256", "-o", "other").code == 0
    for words, code, message in (
        (("shard1", "shard2"), 2, "shard 3/3 is missing"),
        ((*shards, "shard1"), 2, "a shard is given twice"),
        (("shard1", "other", "shard3"), 2, "are shards of different scans"),
        (("shard1", "plain", "shard3"), 2, "plain is not a shard"),
        (("shard1", "nowhere", "shard3"), 3, "nowhere"),
    ):
        outcome = entangle("merge", *words, "-o", "joined")
        assert (outcome.code, message in outcome.err) == (code, True), outcome.err
        assert not Path("joined").exists()
    assert entangle("merge", *shards, "-o", "plain").code == 2


def test_parts_that_are_damaged_or_missing_are_refused(entangle: Entangle, shards: list[str]) -> None:
    shutil.copytree("shard2", "cut")
    manifest = json.loads(Path("cut/manifest.json").read_text())
    Path("cut/manifest.json").write_text(json.dumps({**manifest, "status": "partial"}))
    assert "is incomplete" in entangle("merge", "shard1", "cut", "shard3", "-o", "joined").err
    next(Path("shard2/pairs").glob("*.parquet")).write_bytes(b"x")
    assert entangle("merge", *shards, "-o", "joined").code == 3


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "1/0", "a/b", "1/2/3", "-1/3"])
def test_invalid_shards_are_refused(entangle: Entangle, shard: str) -> None:
    outcome = entangle(*SCAN, "--shard", shard, "-o", "run")
    assert outcome.code == 2
    assert "I/N" in outcome.err
