"""One process against several torchrun processes on the same pairs, one thread each: seconds, and equal numbers.

python -m tests.benchmarks.ranks MODEL DATA [--processes 2] [--repeats 3] [options of scan ...]
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


def scan(processes: int, words: list[str], run: Path) -> tuple[float, float, dict[str, Any]]:
    """Seconds of measuring, total seconds, and the run document."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if processes > 1 else []
    document = run.with_suffix(".json")
    command = [sys.executable, *launcher, "-m", "entangle_cli", "scan", *words]
    start = time.perf_counter()
    subprocess.run(
        [*command, "-q", "-o", str(run), "--json", str(document)],
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
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments, options = parser.parse_known_args()
    words = [arguments.model, arguments.data, *options]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {words}")
    taken: dict[int, list[tuple[float, float]]] = {1: [], arguments.processes: []}
    pairs = {}
    with tempfile.TemporaryDirectory() as base:
        for repeat in range(arguments.repeats):
            for processes, times in taken.items():
                measuring, wall, document = scan(processes, words, Path(base) / f"run-{processes}-{repeat}")
                times.append((measuring, wall))
                pairs[processes] = document["pairs"]
    one, several = ([statistics.median(column) for column in zip(*times, strict=True)] for times in taken.values())
    for processes, (measuring, wall) in zip(taken, (one, several), strict=True):
        rate = len(pairs[1]) / measuring
        print(f"{processes} processes: {measuring:.1f} s of measuring, {rate:.3g} pairs/s, {wall:.1f} s with loading")
    print(f"{one[0] / several[0]:.2f} times as fast, {one[1] / several[1]:.2f} with loading; ", end="")
    print("the same numbers" if pairs[1] == pairs[arguments.processes] else "OTHER NUMBERS")


if __name__ == "__main__":
    main()
