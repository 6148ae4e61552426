"""What EntangleCallback costs: the time of a training with it, relative to the same training without.

    python -m tests.benchmarks.callback_cost MODEL DATA [--steps 100] [--every 50] [--pairs 64] [--batch-size 32]

Both trainings run in turn, `--repeats` times, with TRL's DPOTrainer on the CPU with all cores. It prints one JSON line:
medians of the wall and CPU seconds of `train()`, the share added, the seconds of one measurement, and its share of the
time of `--every` steps. The first measurement, at step 0, counts in the added share only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from entangle_cli import EntangleCallback

MAX_LENGTH = 512


def timed(arguments: argparse.Namespace, folder: str, *, with_callback: bool) -> Mapping[str, float]:
    """Wall and CPU seconds of one training, and the seconds of its measurements."""
    rows = [json.loads(line) for line in Path(arguments.data).read_text().splitlines()]
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32),
        args=DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=min(8, arguments.batch_size),
            gradient_accumulation_steps=max(1, arguments.batch_size // 8),
            max_steps=arguments.steps,
            max_length=MAX_LENGTH,
            logging_steps=10,
            report_to=[],
            save_strategy="no",
            bf16=False,
            use_cpu=True,
            disable_tqdm=True,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(arguments.model),
    )
    if with_callback:
        trainer.add_callback(EntangleCallback(trainer, every=arguments.every, num_pairs=arguments.pairs))
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    each = [entry["entangle/seconds"] for entry in trainer.state.log_history if "entangle/seconds" in entry]
    return {"wall": wall, "cpu": cpu, "measurement": statistics.median(each) if each else 0.0}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    for name, default in (("steps", 100), ("every", 50), ("pairs", 64), ("batch-size", 32), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def main() -> None:
    """Print the costs as one JSON line."""
    arguments = parse_arguments()
    transformers.logging.set_verbosity_error()
    times: dict[bool, list[Any]] = {False: [], True: []}
    for _ in range(arguments.repeats):
        for with_callback in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                times[with_callback].append(timed(arguments, folder, with_callback=with_callback))
    median = {
        key: {name: statistics.median(each[name] for each in runs) for name in ("wall", "cpu", "measurement")}
        for key, runs in times.items()
    }
    step = median[False]["wall"] / arguments.steps
    print(
        json.dumps(
            {
                **vars(arguments),
                "threads": torch.get_num_threads(),
                "wall_without": round(median[False]["wall"], 2),
                "wall_with": round(median[True]["wall"], 2),
                "added_wall": round(median[True]["wall"] / median[False]["wall"] - 1, 4),
                "added_cpu": round(median[True]["cpu"] / median[False]["cpu"] - 1, 4),
                "measurement_seconds": round(median[True]["measurement"], 3),
                "share_of_every": round(median[True]["measurement"] / (step * arguments.every), 4),
            }
        )
    )


if __name__ == "__main__":
    main()
