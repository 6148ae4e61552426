"""Folders of a series: one run per step of a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from entangle_cli.errors import UsageError
from entangle_cli.records.pair import PairRecord
from entangle_cli.records.run import Identity
from entangle_cli.store.reading import read_run
from entangle_cli.store.series import runs_in, series_folder, write_point

IDENTITY = Identity(
    {"model": {"name": "m"}, "data": {"name": "d", "rows": 3, "probes": 1}, "settings": {"dtype": "float32"}}
)
ABOUT = {"loss": {"name": "sigmoid", "beta": 0.1, "options": {}}}


def write(series: Path, step: int, log_prob: float = -1.0) -> Path:
    record = PairRecord(2, "p", "ok", chosen_log_prob=log_prob, rejected_log_prob=-2.0)
    return write_point(series, step, IDENTITY, ABOUT, [record])


def test_runs_by_step(tmp_path: Path) -> None:
    for step in (100, 0, 1_000_000, 50):
        write(tmp_path, step)
    (tmp_path / "step-x").mkdir()
    assert list(runs_in(tmp_path)) == [0, 50, 100, 1_000_000]
    assert read_run(runs_in(tmp_path)[50]).columns["index"].tolist() == [2]


def test_a_step_that_is_reached_again_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 50, -1.0)
    folder = write(tmp_path, 50, -3.0)
    assert read_run(folder).columns["chosen_log_prob"].tolist() == [-3.0]


def test_a_new_training_gets_a_new_folder(tmp_path: Path) -> None:
    wanted = tmp_path / "entangle"
    assert series_folder(wanted, is_resumed=False) == wanted
    assert series_folder(wanted, is_resumed=True) == wanted
    write(wanted, 0)
    assert series_folder(wanted, is_resumed=False) == tmp_path / "entangle-2"
    write(tmp_path / "entangle-2", 0)
    assert series_folder(wanted, is_resumed=True) == tmp_path / "entangle-2"
    assert series_folder(wanted, is_resumed=False) == tmp_path / "entangle-3"


def test_a_file_in_the_way_is_an_error_of_three_lines(tmp_path: Path) -> None:
    (tmp_path / "series").write_text("")
    with pytest.raises(UsageError, match="step-000000"):
        write(tmp_path / "series", 0)
