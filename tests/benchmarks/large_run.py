"""A run of a million random pairs: its size on disk, and time and memory of every command.

python -m tests.benchmarks.large_run [--pairs 1000000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from entangle_cli.records.pair import PairRecord
from entangle_cli.records.run import Identity
from entangle_cli.store.writing import RunWriter

PART = 2000
IDENTITY = {
    "model": {"name": "made-up"},
    "data": {"name": "made-up.jsonl", "sha256": "0" * 64, "rows": 0},
    "settings": {"dtype": "float32", "max_length": 1024},
    "tokenization": "trl-1.16",
}
ABOUT = {
    "loss": {"name": "sigmoid", "beta": 0.1, "options": {}},
    "plan": {},
    "tokenizer": {"eos_token": "<end>"},
    "environment": {"device": "cpu"},
}
COMMANDS = {
    "report --format html": ("report", "{run}", "--format", "html"),
    "report --format markdown": ("report", "{run}", "--format", "markdown"),
    "report": ("report", "{run}"),
    "report --losses": ("report", "{run}", "--losses"),
    "report --format json": ("report", "{run}", "--format", "json"),
    "gate": ("gate", "{run}", "--fail-if", "cosine_p95 > 0.99999"),
    "compare": ("compare", "{run}", "{run}"),
    "filter": ("filter", "{run}", "{data}", "-o", "{out}", "--drop", "movement == both_fall"),
}
# Not getrusage: a process inherits the peak of its parent.
MEASURE = r"""
import re, sys
from pathlib import Path
from entangle_cli.cli.app import run
code = run(sys.argv[1:])
print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(code)
"""


def records(start: int, count: int, random: np.random.Generator) -> list[PairRecord]:
    chosen_norm, rejected_norm = np.exp(random.normal(4, 0.5, (2, count)))
    cosine = np.tanh(random.normal(1, 0.8, count))
    log_probs = -random.gamma(4, 30, (2, count))
    tokens = random.integers(5, 400, (3, count))
    return [
        PairRecord(
            index=start + place,
            pair_id=f"{random.integers(2**62):032x}",
            status="ok",
            line=start + place + 1,
            format="TRL standard",
            unordered_id=f"{random.integers(2**62):032x}",
            boundary_moved=False,
            prompt_tokens=int(tokens[0, place]),
            chosen_tokens=int(tokens[1, place]),
            rejected_tokens=int(tokens[2, place]),
            chosen_truncated=False,
            rejected_truncated=False,
            chosen_log_prob=float(log_probs[0, place]),
            rejected_log_prob=float(log_probs[1, place]),
            chosen_grad_norm=float(chosen_norm[place]),
            rejected_grad_norm=float(rejected_norm[place]),
            inner_product=float(cosine[place] * chosen_norm[place] * rejected_norm[place]),
            cosine=float(cosine[place]),
            norm_ratio=float(chosen_norm[place] / rejected_norm[place]),
            chosen_condition=float(cosine[place] * rejected_norm[place] / chosen_norm[place]),
            rejected_condition=float(cosine[place] * chosen_norm[place] / rejected_norm[place]),
            ches=float(-cosine[place]),
            length_normalised_ches=float(-cosine[place]),
            head_inner_product=float(cosine[place]),
            edit_distance=int(tokens[1, place]),
            shared_prefix_tokens=int(tokens[0, place] % 7),
            shared_suffix_tokens=1,
        )
        for place in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as base:
        run, data = Path(base) / "run", Path(base) / "made-up.jsonl"
        with data.open("w") as file:
            for row in range(pairs):
                file.write(
                    json.dumps({"prompt": f"Question {row}", "chosen": " yes " * 20, "rejected": " no " * 20}) + "\n"
                )
        from entangle_cli.data.fingerprint import fingerprint

        identity = {**IDENTITY, "data": {"name": data.name, "sha256": fingerprint(data).sha256, "rows": pairs}}
        random = np.random.default_rng(0)
        start = time.perf_counter()
        with RunWriter.open(run, Identity(identity), ABOUT) as writer:
            for first in range(0, pairs, PART):
                writer.add(records(first, min(PART, pairs - first), random))
        size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
        numbers = 24 * 8 * pairs
        print(f"{pairs:,} pairs: run {size / 1e6:.0f} MB, {size / numbers:.2f} of 24 float64 numbers a pair; ", end="")
        print(f"made and written in {time.perf_counter() - start:.0f} s")
        for name, words in COMMANDS.items():
            filled = [word.format(run=run, data=data, out=Path(base) / "kept.jsonl") for word in words]
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", MEASURE, *filled], capture_output=True, check=False)
            seconds = time.perf_counter() - start
            peak = int(done.stderr.split()[-1]) / 1024
            output = f"{len(done.stdout) / 1e6:.2f} MB of output, exit {done.returncode}"
            print(f"{name}: {seconds:.1f} s, {peak:.0f} MiB, {output}")


if __name__ == "__main__":
    main()
