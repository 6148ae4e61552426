"""One process against workers on the same pairs, one thread each: seconds, and equal numbers.

python -m tests.benchmarks.workers MODEL DATA [--workers 2] [--repeats 3] [options of scan ...]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch


def scan(workers: int, words: list[str], run: Path) -> tuple[float, float, dict[str, Any]]:
    """Seconds of measuring, total seconds, and the run document."""
    document = run.with_suffix(".json")
    shared = ["--workers", str(workers), "--threads-per-worker", "1"] if workers > 1 else []
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "entangle_cli", "scan", *words, *shared, "-q", "-o", str(run), "--json", str(document)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - start
    found: dict[str, Any] = json.loads(document.read_text())
    return float(found["manifest"]["seconds"]), wall, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments, options = parser.parse_known_args()
    words = [arguments.model, arguments.data, *options]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {words}")
    taken: dict[int, list[tuple[float, float]]] = {1: [], arguments.workers: []}
    pairs = {}
    with tempfile.TemporaryDirectory() as base:
        for repeat in range(arguments.repeats):
            for workers, times in taken.items():
                measuring, wall, document = scan(workers, words, Path(base) / f"run-{workers}-{repeat}")
                times.append((measuring, wall))
                pairs[workers] = document["pairs"]
    one, several = ([statistics.median(column) for column in zip(*times, strict=True)] for times in taken.values())
    for workers, (measuring, wall) in zip(taken, (one, several), strict=True):
        name = "one process" if workers == 1 else f"{workers} workers"
        rate = len(pairs[1]) / measuring
        print(f"{name}: {measuring:.1f} s of measuring, {rate:.3g} pairs/s, {wall:.1f} s with loading")
    print(f"{one[0] / several[0]:.2f} times as fast, {one[1] / several[1]:.2f} with loading; ", end="")
    print("the same numbers" if pairs[1] == pairs[arguments.workers] else "OTHER NUMBERS")


if __name__ == "__main__":
    main()
