"""`--checkpoints`: selection of checkpoint folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from entangle_cli.diagnose.scan.series import chosen_checkpoints
from entangle_cli.errors import UsageError


@pytest.fixture
def training(tmp_path: Path) -> Path:
    for name in ("checkpoint-1000", "checkpoint-20", "checkpoint-300", "checkpoint-best", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-7").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("choice", "steps"),
    [("last", [1000]), ("all", [20, 300, 1000]), ("300", [300]), ("1000, 20", [1000, 20]), ("20,20", [20])],
)
def test_choices(choice: str, steps: list[int], training: Path) -> None:
    assert [path.name for path in chosen_checkpoints(str(training), choice)] == [f"checkpoint-{step}" for step in steps]


@pytest.mark.parametrize(
    ("choice", "problem"), [("7", "no step 7"), ("20,400", "no step 400"), ("first", "not a list")]
)
def test_missing_steps_are_refused(choice: str, problem: str, training: Path) -> None:
    with pytest.raises(UsageError, match=f"{problem}[\\s\\S]*20, 300, 1000"):
        chosen_checkpoints(str(training), choice)


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no checkpoint-N"):
        chosen_checkpoints(str(tmp_path), "all")
