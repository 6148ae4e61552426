"""Does acting on a scan help? Training with a tenth of the pairs dropped by different rules, judged on held-out pairs.

    python -m tests.benchmarks.acting MODEL DATA [DATA ...] [--pairs 256] [--seeds 0 1 2] [--share 0.1]
        [--learning-rate 5e-6] [--max-length 256]

Per data set and seed, a quarter of the pairs is held out. The rest is scanned, and a share of it is dropped:
    nothing     no pair
    random      any pairs
    slack       those with the smallest slack: the ones that `entangle filter` drops first
    cosine      those with the largest cosine
    ches        those with the largest length-normalised CHES (Razin et al., arXiv 2410.08847)

What is left is trained on for one epoch by `entangle rehearse`: DPO, batches of 8, AdamW, linear decay. One JSON line
per run holds what happened to all held-out pairs. The table at the end has means over the seeds, and for each rule the
mean difference to random with the smallest and the largest of the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers

import entangle_cli
from entangle_cli import RehearsalSettings, ScanSettings

RULES = ("nothing", "random", "slack", "cosine", "ches")
METRICS = ("chosen_change_mean", "rejected_change_mean", "margin_change_mean", "chosen_falls_rate", "margin_rises_rate")
BATCH_SIZE = 8


def dropped(rule: str, run: entangle_cli.Run, share: float, seed: int) -> set[int]:
    """Rows that a rule drops. Rows without a measurement are kept by all of them."""
    measured = [pair for pair in run if pair.cosine is not None]
    count = round(share * len(measured))
    if rule == "nothing":
        return set()
    if rule == "random":
        return {pair.index for pair in random.Random(seed).sample(measured, count)}
    worst = {
        "slack": lambda pair: math.inf if pair.slack is None else pair.slack,
        "cosine": lambda pair: -pair.cosine,
        "ches": lambda pair: -(pair.length_normalised_ches or 0.0),
    }[rule]
    return {pair.index for pair in sorted(measured, key=worst)[:count]}


def study(data: Path, arguments: argparse.Namespace, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Train under every rule."""
    lines = data.read_text().splitlines()
    random.Random(seed).shuffle(lines)
    lines = lines[: arguments.pairs]
    held, train = lines[: len(lines) // 4], lines[len(lines) // 4 :]
    held_out = folder / "held.jsonl"
    held_out.write_text("\n".join(held) + "\n")
    settings = ScanSettings(max_length=arguments.max_length, device="cpu", seed=seed)
    run = entangle_cli.scan(arguments.model, [json.loads(line) for line in train], settings)
    for rule in RULES:
        gone = dropped(rule, run, arguments.share, seed)
        kept = folder / f"{rule}.jsonl"
        kept.write_text("\n".join(line for place, line in enumerate(train) if place not in gone) + "\n")
        steps = math.ceil((len(train) - len(gone)) / BATCH_SIZE)
        training = RehearsalSettings(
            steps=steps,
            batch_size=BATCH_SIZE,
            learning_rate=arguments.learning_rate,
            warmup_steps=0.1,
            num_pairs=2 * len(held),
            every=steps,
        )
        found = entangle_cli.rehearse(arguments.model, str(kept), settings, training, str(held_out), folder / rule)
        (loss,) = found["losses"]
        metrics = loss["points"][-1]["held_out"]
        yield {
            "data": data.stem,
            "seed": seed,
            "rule": rule,
            "dropped": len(gone),
            "steps": steps,
            "loss": loss["log"][-1]["loss"],
            **{name: metrics[name] for name in METRICS},
        }


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Means over the seeds, and differences to random."""
    print("| data | rule |", " | ".join(METRICS), "|")
    print("|" + "---|" * (len(METRICS) + 2))
    for data in dict.fromkeys(row["data"] for row in rows):
        by_rule = {rule: [row for row in rows if (row["data"], row["rule"]) == (data, rule)] for rule in RULES}
        for rule, own in by_rule.items():
            cells = []
            for name in METRICS:
                values = np.array([row[name] for row in own])
                differences = values - np.array([row[name] for row in by_rule["random"]])
                spread = f" ({differences.mean():+.3f}, {differences.min():+.3f} to {differences.max():+.3f})"
                cells.append(f"{values.mean():+.3f}" + (spread if rule != "random" else ""))
            print(f"| {data} | {rule} |", " | ".join(cells), "|")


def main() -> None:
    """Run all data sets and seeds, and print lines and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=5e-6)
    parser.add_argument("--max-length", type=int, default=256)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    rows = []
    for data in arguments.data:
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as folder:
                for row in study(data, arguments, seed, Path(folder)):
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
