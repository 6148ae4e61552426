"""A run written by 0.5.0 is read, judged and reported like a run of the current version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import entangle_cli
from entangle_cli.records.pair import PAIR_FIELDS
from entangle_cli.records.settings import ReportFormat
from tests.cli.conftest import LONG, MODEL, Entangle

OLD = Path(__file__).parent / "run_0_5_0"


def test_its_numbers_are_those_of_today() -> None:
    old, new = entangle_cli.read(OLD), entangle_cli.scan(str(MODEL), LONG, entangle_cli.ScanSettings(limit=4))
    assert [pair.pair_id for pair in old] == [pair.pair_id for pair in new]
    for name in ("cosine", "inner_product", "chosen_log_prob", "slack"):
        # The sample model's weights were rounded to 18 bits since.
        today = pytest.approx([getattr(pair, name) for pair in new], rel=1e-3, abs=1e-5)
        assert [getattr(pair, name) for pair in old] == today
    assert [pair.movement for pair in old] == [pair.movement for pair in new]
    assert old.summary["layers"]


def test_every_command_reads_it(entangle: Entangle, tmp_path: Path) -> None:
    run = shutil.copytree(OLD, tmp_path / "old")
    for output_format in ReportFormat:
        assert entangle("report", run, "--format", output_format).code == 0
    assert entangle("gate", run, "--fail-if", "both_fall_rate > 1e-9").code in (0, 1)
    assert entangle("compare", run, run, "--format", "json").code == 0
    outcome = entangle("filter", run, LONG, "-o", "kept.jsonl", "--drop", "movement == reversed", "--keep-unmeasured")
    assert outcome.code == 0, outcome.err
    document = json.loads(entangle("report", run, "--format", "json").out)
    assert set(document["pairs"][0]) == set(PAIR_FIELDS)
