"""Feeds workers that sleep instead of measuring: pairs per second, and the main process's CPU time and memory.

The rows are read, tokenised, dealt, and their records written, as in a scan. Only the measurement is a pause.

python -m tests.benchmarks.feeding MODEL DATA [--workers 8] [--rows 20000] [--batch-seconds 0.1] [--tokenizers 2]
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import resource
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import entangle_cli
from entangle_cli.api.scanning import ScanObserver
from entangle_cli.diagnose.scan.row_records import PreparedRow, with_row_fields
from entangle_cli.diagnose.workers import opening, sizing
from entangle_cli.diagnose.workers.worker import Opened, Worker
from entangle_cli.records.pair import PairRecord, RecordBatch
from entangle_cli.records.settings import ScanSettings, WorkerSettings

TEMPLATE = "ENTANGLE_BENCHMARK_TEMPLATE"
"""Variable with the path of a pickle: the model's description and a record."""
SECONDS = "ENTANGLE_BENCHMARK_SECONDS"


class SleepingWorker(Worker):
    """Opens without loading a model, and sleeps for a time per batch."""

    async def open(self) -> Opened:
        description, self._record = pickle.loads(Path(os.environ[TEMPLATE]).read_bytes())
        return Opened(description, "here", os.getpid())

    async def measure(self, rows: Sequence[PreparedRow]) -> Any:
        return await self._in_thread(lambda: self._pause(rows))

    def _pause(self, rows: Sequence[PreparedRow]) -> RecordBatch:
        time.sleep(float(os.environ[SECONDS]))
        return RecordBatch([with_row_fields(replace(self._record, pair_id=row.pair.pair_id), row) for row in rows])


class Watch(ScanObserver):
    """Notes time, CPU time and memory while rows arrive."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float, int, int]] = []
        """Wall seconds, CPU seconds, resident bytes, pairs."""

    def measured(self, num_rows: int, num_pairs: int) -> None:
        if num_rows:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            cpu = resource.getrusage(resource.RUSAGE_SELF)
            point = (time.perf_counter(), cpu.ru_utime + cpu.ru_stime, pages * resource.getpagesize(), num_pairs)
            self.points.append(point)


@contextmanager
def template(model: str, data: str, folder: Path) -> Any:
    """A real record and description for the sleeping workers."""
    from entangle_cli.diagnose.scan.opening import open_local_scan

    with open_local_scan(model, data, ScanSettings(limit=1)) as (scan, loaded):
        record: PairRecord = next(each for batch in scan.records() for each in batch.pairs)
        path = folder / "template.pickle"
        path.write_bytes(pickle.dumps((loaded.description, record)))
    os.environ[TEMPLATE] = str(path)
    yield


def repeated(data: str, number: int, path: Path) -> None:
    """The rows of a JSON lines file, again and again."""
    rows = Path(data).read_text(encoding="utf-8").splitlines()
    with path.open("w", encoding="utf-8") as file:
        for index in range(number):
            file.write(rows[index % len(rows)] + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--batch-seconds", type=float, default=0.1)
    parser.add_argument("--batch-tokens", type=int, default=None)
    parser.add_argument("--tokenizers", type=int, default=None)
    arguments = parser.parse_args()
    os.environ[SECONDS] = str(arguments.batch_seconds)
    if arguments.tokenizers is not None:
        sizing.WORKERS_PER_TOKENIZER = arguments.workers // arguments.tokenizers if arguments.tokenizers else 10**6
    opening.Worker = SleepingWorker  # type: ignore[misc]
    watch = Watch()
    workers = WorkerSettings(arguments.workers, threads_per_worker=1)
    with tempfile.TemporaryDirectory() as base, template(arguments.model, arguments.data, Path(base)):
        data = Path(base) / "rows.jsonl"
        repeated(arguments.data, arguments.rows, data)
        settings = ScanSettings(workers=workers, batch_tokens=arguments.batch_tokens)
        entangle_cli.scan(arguments.model, str(data), settings, Path(base) / "run", observer=watch)
    print(json.dumps(result(watch, arguments)))


def result(watch: Watch, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rates from 10 % to 95 % of the rows, without start and end."""
    first = next(point for point in watch.points if point[3] >= 0.1 * arguments.rows)
    last = next(point for point in watch.points if point[3] >= 0.95 * arguments.rows)
    pairs = last[3] - first[3]
    batches = watch.points.index(last) - watch.points.index(first)
    seconds = last[0] - first[0]
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "workers": arguments.workers,
        "pairs_per_second": round(pairs / seconds),
        "pairs_per_batch": round(pairs / batches, 1),
        # 1 if the workers never wait for a batch.
        "share_of_time_measuring": round(batches * arguments.batch_seconds / arguments.workers / seconds, 3),
        "main_process_cpu_ms_per_pair": round(1000 * (last[1] - first[1]) / pairs, 3),
        "resident_mib_at_10_percent": first[2] >> 20,
        "resident_mib_at_95_percent": last[2] >> 20,
    }


if __name__ == "__main__":
    main()
