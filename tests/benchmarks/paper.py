"""The paper's experiment on the sample data: what DPO does to answers that differ in one token and share an ending.

    python -m tests.benchmarks.paper [--seeds 0 1 2] [--figure sample_data/paper.png]

Yuan et al. (arXiv 2410.13828, figures 3 and 4a) fine-tune GPT-2 on sentiment data whose answers are one token, or
share a short or a long ending, and train with DPO. With one token, the gradients of both answers point apart, and the
chosen log-prob rises. The longer the shared ending, the higher the cosine, and the lower the chosen log-prob.

First, SFTTrainer fine-tunes the sample model on both answers of every pair. It is then undecided between them. Next,
`entangle rehearse` trains it with DPO and measures all pairs. One JSON line per file and seed holds the steps, the mean
changes of both log-probs, and the mean cosine. `--figure` draws them with Chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer

import entangle_cli
from entangle_cli import RehearsalSettings, ScanSettings
from entangle_cli.report.line_chart import Line, Range, line_chart

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"
ENDINGS = {"one_token": "one token", "short_ending": "short ending", "long_ending": "long ending"}
STEPS = 30
METRICS = {
    "chosen_change_mean": "Log-prob of the chosen answer: change in nats",
    "rejected_change_mean": "Log-prob of the rejected answer: change in nats",
    "cosine_mean": "Cosine of the two gradients",
}


def fine_tuned(ending: str, seed: int, folder: Path) -> Path:
    """Fine-tune the sample model on both answers of every pair."""
    rows = [json.loads(line) for line in (SAMPLE / f"{ending}.jsonl").read_text().splitlines()]
    answers = [{"prompt": row["prompt"], "completion": row[side]} for side in ("chosen", "rejected") for row in rows]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(SAMPLE / "model", dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=16,
            num_train_epochs=2,
            learning_rate=5e-4,
            seed=seed,
            bf16=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(answers),
        processing_class=AutoTokenizer.from_pretrained(SAMPLE / "model"),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(str(folder))
    return folder


def points_of(
    ending: str, seed: int, folder: Path, num_pairs: int, every: int, steps: int = STEPS
) -> list[Mapping[str, Any]]:
    """The measured points of the first steps of `STEPS` with DPO: batches of 32, learning rate 1e-4."""
    document = entangle_cli.rehearse(
        str(fine_tuned(ending, seed, folder / "model")),
        str(SAMPLE / f"{ending}.jsonl"),
        ScanSettings(seed=seed, device="cpu"),
        RehearsalSettings(
            steps=steps,
            horizon=STEPS,
            learning_rate=1e-4,
            batch_size=32,
            warmup_steps=0.1,
            num_pairs=num_pairs,
            every=every,
        ),
        output=folder / "rehearsal",
    )
    return [{"step": point["step"], **point["train"]} for point in document["losses"][0]["points"]]


def draw(curves: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]], file: Path) -> None:
    """A picture with one chart per metric: solid lines for the means over the seeds, dashed ones for the seeds."""
    charts = []
    for metric, title in METRICS.items():
        lines = []
        for (ending, label), style in zip(ENDINGS.items(), ("plain", "rejected", "chosen"), strict=True):
            of_seeds = [points for (name, _), points in curves.items() if name == ending]
            steps = [point["step"] for point in of_seeds[0]]
            values = np.array([[point[metric] for point in points] for points in of_seeds])
            lines.append(Line(label, style, list(zip(steps, values.mean(0), strict=True))))
            lines += [Line("", f"{style} faint", list(zip(steps, one, strict=True))) for one in values]
        spread = [value for line in lines for _, value in line.points]
        charts.append(f"<figure>{line_chart(lines, Range.of(spread, zero=True), STEPS, title)}<figcaption>{title}")
    style = (SAMPLE.parent / "entangle_cli/report/templates/page.css").read_text()
    own = "body{max-width:none;padding:12px 20px} .multiples{grid-template-columns:repeat(3,1fr)}"
    page = (
        f"<!doctype html><meta charset=utf-8><style>{style}{own}</style><div class=multiples>{'</figure>'.join(charts)}"
    )
    with tempfile.TemporaryDirectory() as folder:
        html = Path(folder) / "page.html"
        html.write_text(page)
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        assert browser is not None, "Chromium draws the figure"
        words = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-device-scale-factor=2",
        ]
        words += ["--window-size=1100,250", f"--screenshot={file.resolve()}", f"--user-data-dir={folder}/profile"]
        subprocess.run([browser, *words, html.as_uri()], check=True, capture_output=True)


def main() -> None:
    """Run all endings and seeds, print them and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    curves = {}
    for ending in ENDINGS:
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as folder:
                points = curves[ending, seed] = points_of(ending, seed, Path(folder), 60, 3)
            numbers = {name: [round(point[name], 4) for point in points] for name in METRICS}
            steps = [point["step"] for point in points]
            print(json.dumps({"ending": ending, "seed": seed, "steps": steps, **numbers}), flush=True)
    if arguments.figure is not None:
        draw(curves, arguments.figure)


if __name__ == "__main__":
    main()
