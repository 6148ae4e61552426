"""Scans by workers of Ray: the same numbers as one process, and no row lost when something dies."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

import entangle_cli
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import ScanSettings, WorkerSettings
from tests.cli.conftest import LONG, MODEL, Entangle
from tests.diagnose.workers.faulty_worker import FaultyWorker

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")]

WORDS = ("scan", str(MODEL), str(LONG), "--limit", "60", "--batch-tokens", "512")
TWO = ("--workers", "2", "--threads-per-worker", "1")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One local cluster for all scans of this module that run in this process."""
    from entangle_cli.diagnose.workers.cluster import connected

    with connected(WorkerSettings(2, threads_per_worker=1)):
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Workers with one thread give the numbers of one process with one thread, bit for bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def document(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


def assert_close(one: str, other: str) -> None:
    """Equal, except for float32 rounding in batches of other rows."""
    for left, right in zip(document(one)["pairs"], document(other)["pairs"], strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            expected = pytest.approx(value, rel=1e-3, abs=1e-4) if isinstance(value, float) else value
            assert right[name] == expected, name


def test_two_workers_write_the_same_run_as_one_process(entangle: Entangle) -> None:
    words = (*WORDS, "--layers", "--unshared-cosine", "--ref-model", str(MODEL), "--fail-if", "both_fall_rate > 0.9")
    one = entangle(*words, "-o", "one", "--json", "one.json")
    two = entangle(*words, *TWO, "-o", "two", "--json", "two.json")
    assert one.code == two.code == 0, two.err
    first, second = document("one.json"), document("two.json")
    assert first["pairs"] == second["pairs"]
    assert first["manifest"]["identity"] == second["manifest"]["identity"]
    # The reports differ only in the folder.
    assert two.out.replace("two", "one") == one.out
    assert "dealt to 2 workers" in two.err
    assert second["manifest"]["plan"]["num_workers"] == 2
    for left, right in zip(first["summary"]["layers"], second["summary"]["layers"], strict=True):
        assert left.pop("group") == right.pop("group")
        assert left == pytest.approx(right, rel=1e-9)  # summed in another order


def test_known_pairs_and_until_decided_work_with_workers(entangle: Entangle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entangle_cli.analysis.sequential.FIRST_ROUND", 12)
    rule = ("--until-decided", "--fail-if", "both_fall_rate > 0.6")
    words = ("scan", str(MODEL), str(LONG), "--batch-tokens", "512")
    assert entangle(*words, *rule, "-o", "one", "--json", "one.json", "-q").code == 0
    assert entangle(*words, *rule, *TWO, "-o", "two", "--json", "two.json", "-q").code == 0
    assert 12 < len(document("two.json")["pairs"]) < 100
    assert document("one.json")["pairs"] == document("two.json")["pairs"]
    assert entangle(*words, *TWO, "--known", "two", "-o", "whole", "--json", "whole.json", "-q").code == 0
    assert entangle(*words, "-o", "plain", "--json", "plain.json", "-q").code == 0
    assert_close("plain.json", "whole.json")


def test_rows_that_kill_workers_are_named_and_the_others_measured(
    entangle: Entangle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entangle_cli.diagnose.workers.opening.Worker", FaultyWorker)
    Path("faults").mkdir()
    for row, fault in ((20, "once"), (30, "bug")):
        (Path("faults") / str(row)).write_text(fault)
    outcome = entangle(*WORDS, *TWO, "-o", "run")
    assert outcome.code == 4
    found = f"{LONG}, line 31: unexpected RuntimeError: CUDA error: device-side assert triggered"
    assert f"error: 1 row not measured: {found}" in outcome.err
    assert "died: the process crashed, was killed, or lost its machine; it is started again" in outcome.err
    # Four deaths for the deadly row, one for the row that was deadly once; two may fall into one.
    assert 4 <= outcome.err.count("it is started again") <= 5
    manifest = document("run/manifest.json")
    assert manifest["status"] == "partial"
    assert sum(part["rows"] for part in manifest["parts"]) == 59
    for fault in Path("faults").iterdir():
        fault.unlink()
    assert entangle(*WORDS, *TWO, "-o", "run", "--json", "run.json", "-q").code == 0
    assert entangle(*WORDS, "-o", "one", "--json", "one.json", "-q").code == 0
    assert_close("one.json", "run.json")


def test_workers_that_die_while_idle_blame_no_row() -> None:
    from entangle_cli.diagnose.scan.opening import open_scan

    said: list[str] = []
    settings = ScanSettings(workers=WorkerSettings(2, threads_per_worker=1), limit=20, batch_tokens=512)
    with open_scan(str(MODEL), str(LONG), settings, said.append) as scan:
        pool: Any = scan._model
        while len(pool._ready) < 2:
            list(pool._arrived())
        for member in pool._members:
            os.kill(member.opened.process_id, signal.SIGKILL)
        time.sleep(5)  # Ray starts the processes again
        pairs = [pair for batch in scan.records() for pair in batch.pairs]
    assert sorted(pair.index for pair in pairs) == list(range(20))
    assert not pool.lost_rows
    # A machine under load may say that it waits. No row is blamed.
    assert all(line.startswith("no worker is ready yet") for line in said)


def test_processes_that_tokenise_give_the_same_windows() -> None:
    from entangle_cli.diagnose.scan.opening import open_local_scan
    from entangle_cli.diagnose.scan.row_preparation import RowPreparation
    from entangle_cli.diagnose.workers.tokenizing import start_tokenizing, tokenizer_with_limits

    settings = ScanSettings(max_length=64)
    with open_local_scan(str(MODEL), str(LONG), settings) as (scan, loaded):
        source = scan.reader.source
        pairs = scan.reader.pairs
        here = RowPreparation(pairs, tokenizer_with_limits(str(MODEL), loaded.description, settings), settings)
        there = start_tokenizing(2, str(MODEL), loaded.description, pairs, settings)
        assert (
            list(there(source.rows()))
            == list(here(source.rows()))
            == list(loaded.preparation(pairs, settings)(source.rows()))
        )


def test_a_local_cluster_listens_on_the_loopback_address_alone() -> None:
    found = set()
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add(connection.laddr.ip.removeprefix("::ffff:"))
    assert found
    assert all(ipaddress.ip_address(address).is_loopback for address in found), found


def test_a_local_cluster_asks_for_a_token(tmp_path: Path) -> None:
    import ray

    script = f"import ray; ray.init('{ray.get_runtime_context().gcs_address}'); print('joined')"
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **wrong, "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "InvalidAuthToken" in line:
                break
        process.kill()
    assert "InvalidAuthToken" in lines[-1]
    assert "joined\n" not in lines


def test_a_model_in_memory_is_refused() -> None:
    model, rows = (object(), object()), [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(UsageError, match="workers with a model in memory"):
        entangle_cli.scan(model, rows, ScanSettings(workers=WorkerSettings(2)))


# Like `python -m entangle_cli`. It writes every row at once, so a kill leaves some rows.
DRIVER = "from entangle_cli.store import writing; writing.PART_ROWS = 1\nfrom entangle_cli.cli.app import main; main()"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_same_command_goes_on_after_the_main_process_is_killed(
    entangle: Entangle, tmp_path: Path, number: signal.Signals
) -> None:
    words = ("scan", str(MODEL), str(LONG), "--batch-tokens", "64", "-o", "run")
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words, *TWO],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(MODEL.parents[1]), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as process:
        while not any((tmp_path / "run").glob("pairs/*.parquet")):
            assert process.poll() is None
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in family if command_of(child).startswith("ray::Worker")]
        process.send_signal(number)
        assert process.wait(timeout=60) == (-9 if number == signal.SIGKILL else 130)
    # Workers do not outlive the main process.
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    kept = sum(part["rows"] for part in document("run/manifest.json")["parts"])
    assert 0 < kept < 100
    assert entangle(*words, "--json", "run.json", "-q").code == 0
    pairs = document("run.json")["pairs"]
    assert [pair["index"] for pair in pairs] == list(range(100))


# Two nodes on this machine. One is killed when both have measured.
TWO_NODES = """
import subprocess, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
scan = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:], "--ray-address", cluster.address])
while len(list(Path().glob("measured-*"))) < 2 and scan.poll() is None:
    time.sleep(0.05)
cluster.remove_node(node, allow_graceful=False)
code = scan.wait()
cluster.shutdown()
sys.exit(code)
"""
SLOW = """
from tests.diagnose.workers.faulty_worker import SlowWorker
from entangle_cli.diagnose.workers import opening
opening.Worker = SlowWorker
from entangle_cli.cli.app import main
main()
"""


def test_the_scan_goes_on_when_a_machine_is_lost(entangle: Entangle, tmp_path: Path) -> None:
    words = ("scan", str(MODEL), str(LONG), "--limit", "40", "--batch-tokens", "128")
    done = subprocess.run(
        [sys.executable, "-c", TWO_NODES, SLOW, *words, *TWO, "-o", "run", "--json", "run.json"],
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            **{"PYTHONPATH": str(MODEL.parents[1]), "OMP_NUM_THREADS": "1"},
            **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("it is started again") == 1
    assert entangle(*words, "--json", "one.json", "-q").code == 0
    assert_close("one.json", "run.json")


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
