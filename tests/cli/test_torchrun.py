"""Scans by torchrun in two processes. Even if one dies, the run is the same as from one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import LONG, MODEL, Entangle, Outcome

ROOT = MODEL.parents[1]
WORDS = ("scan", str(MODEL), str(LONG), "--limit", "60", "--batch-tokens", "256")

# Like `python -m entangle_cli`, with changes to one of the processes.
DRIVER = """
import os, signal, sys, time
from pathlib import Path
from entangle_cli.store import writing
from entangle_cli.cli.app import main
from entangle_cli.diagnose.scan.measurer import Measurer
rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
writing.PART_ROWS = 1
measure, num_measured = Measurer.start, 0
def counted(self, rows):
    global num_measured
    num_measured += 1
    {on_batch}
    return measure(self, rows)
Measurer.start = counted
{at_start}
main()
"""
# Dies in its second batch, after rank 0 has written a part.
DIES = """if rank == {rank} and attempt == 0 and num_measured == 2:
        while not any(Path().rglob("pairs/*.parquet")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)"""


@pytest.fixture
def torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a command line in two processes inside the test's folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str, options: tuple[str, ...] = (), on_batch: str = "pass", at_start: str = "") -> Outcome:
        driver = tmp_path / "driver.py"
        driver.write_text(DRIVER.format(on_batch=on_batch, at_start=at_start))
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options, str(driver), *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call


Torchrun = Callable[..., Outcome]


def pairs_of(path: str | Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(path).read_text())["pairs"]
    return found


def assert_same_numbers(one: str, other: str) -> None:
    """Equal, except for float32 rounding with different padding."""
    for left, right in zip(pairs_of(one), pairs_of(other), strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            expected = pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value
            assert right[name] == expected, name


@pytest.mark.slow
def test_two_processes_write_the_same_run_as_one(torchrun: Torchrun, entangle: Entangle) -> None:
    words = (*WORDS, "--layers", "--fail-if", "both_fall_rate > 0.9")
    one = entangle(*words, "-o", "one", "--json", "one.json")
    two = torchrun(*words, "-o", "two", "--json", "two.json")
    assert one.code == two.code == 0, two.err
    assert pairs_of("one.json") == pairs_of("two.json")
    # The reports differ only in the folder.
    assert two.out.replace("two", "one") == one.out
    assert "dealt out to 2 processes" in two.err
    assert two.err.count("run         two") == 1
    one_layers, two_layers = (
        json.loads(entangle("report", run, "--format", "json").out)["summary"]["layers"] for run in ("one", "two")
    )
    for left, right in zip(one_layers, two_layers, strict=True):
        assert left.pop("group") == right.pop("group")
        assert left == pytest.approx(right, rel=1e-9)  # summed in another order
    assert json.loads(Path("two/manifest.json").read_text())["plan"]["num_processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_batch_of_a_dead_process_is_measured_by_the_next_start(
    torchrun: Torchrun, entangle: Entangle, rank: int
) -> None:
    words = (*WORDS, "-o", "run", "--json", "run.json", "-q")
    died = torchrun(*words, on_batch=DIES.format(rank=rank))
    assert died.code != 0
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert manifest["status"] == "partial"
    assert 0 < sum(part["rows"] for part in manifest["parts"]) < 60
    assert entangle(*words).code == 0  # with any number of processes
    assert entangle(*WORDS, "-o", "one", "--json", "one.json", "-q").code == 0
    assert_same_numbers("one.json", "run.json")


@pytest.mark.slow
def test_torchrun_restarts_the_processes(torchrun: Torchrun, entangle: Entangle) -> None:
    words = (*WORDS, "-q", "--json", "run.json")
    outcome = torchrun(*words, options=("--max-restarts", "1"), on_batch=DIES.format(rank=1))
    assert outcome.code == 0, outcome.err
    assert entangle(*WORDS, "-o", "one", "--json", "one.json", "-q").code == 0
    assert_same_numbers("one.json", "run.json")


@pytest.mark.slow
def test_a_final_result_is_not_measured_again_after_a_restart(torchrun: Torchrun) -> None:
    words = (*WORDS, "-o", "run", "--fail-if", "both_fall_rate > 0.001")
    outcome = torchrun(*words, options=("--max-restarts", "2"))
    assert outcome.code != 0
    assert outcome.out.count("gate failed") == 1
    assert json.loads(Path("run/manifest.json").read_text())["status"] == "complete"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at_start", "message"),
    [
        (
            "def broken(self, rows): raise RuntimeError('cable')\nif rank: Measurer.start = broken",
            "error: rank 1: unexpected RuntimeError: cable",
        ),
        ("if rank: sys.argv[3] = 'nowhere.jsonl'", "error: rank 1: nowhere.jsonl"),
        ("if rank: sys.argv += ['--max-length', '99']", "error: rank 1: does not match rank 0 in: settings"),
        ("sys.argv[2] = 'no/model'", "error: no/model"),
    ],
)
def test_rank_0_reports_the_error_of_any_process(torchrun: Torchrun, at_start: str, message: str) -> None:
    outcome = torchrun(*WORDS, "-o", "run", at_start=at_start)
    assert outcome.code != 0
    assert outcome.err.count("error: ") == 1
    assert message in outcome.err
    assert "Traceback" not in outcome.err.partition("torch/distributed")[0]


@pytest.mark.slow
def test_until_decided_works_with_two_processes(torchrun: Torchrun, entangle: Entangle) -> None:
    words = (
        "scan",
        str(MODEL),
        str(LONG),
        "--until-decided",
        "--fail-if",
        "both_fall_rate > 0.6",
        "--batch-tokens",
        "256",
    )
    small = "from entangle_cli.analysis import sequential; sequential.FIRST_ROUND = 12"
    two = torchrun(*words, "-o", "two", "--json", "two.json", at_start=small)
    assert two.code == 0, two.err
    assert "gate passed: decided after" in two.out
    decided = len(pairs_of("two.json"))
    assert 12 < decided < 100
    assert entangle(*words, "-o", "two", "-q").code == 0
    assert len(pairs_of("two.json")) == decided
