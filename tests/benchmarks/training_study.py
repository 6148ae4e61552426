"""Agreement of the predictors with real training for every loss, and rankings of pairs by other measures.

    python -m tests.benchmarks.training_study [--rows 50] [--steps 100] [--lr 1e-5] [--losses sigmoid simpo ...]

The sample model is trained with AdamW on the first rows of a sample file, all of them in every step (TRL's defaults
otherwise: gradient clipping at 1, no weight decay), the checkpoint being the reference. First table: shares of pairs
whose chosen log-prob falls and whose rejected one rises, as forecast for the first step and as measured after 1, 10,
... steps. Second: share of pairs whose movement is the one that a predictor named. Third: Spearman's correlation of
what a scan measures with the measured change of the chosen log-prob under DPO's loss: +1 or -1 is a perfect ranking.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from entangle_cli.analysis.agreement import agreement
from entangle_cli.diagnose.forecast.forecast import Forecaster, open_forecast
from entangle_cli.diagnose.forecast.pairs import step_shares
from entangle_cli.diagnose.forecast.result import ONE_STEP, Forecast, Measured
from entangle_cli.diagnose.views.movements import describe_loss
from entangle_cli.engine.update import clip_factor, make_optimizer
from entangle_cli.records.settings import ForecastSettings, LossSettings, ScanSettings

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"

LOSSES = {
    "sigmoid": LossSettings("sigmoid"),
    "ipo": LossSettings("ipo"),
    "simpo": LossSettings("simpo", 2.0),
    "sigmoid_sft": LossSettings("sigmoid_sft", options={"nll_weight": 0.05}),
    "dpop": LossSettings("dpop", options={"penalty": 5.0}),
    "apo_zero": LossSettings("apo_zero"),
}

MEASURES = (
    "cosine",
    "unshared_cosine",
    "norm_ratio",
    "ches",
    "length_normalised_ches",
    "head_inner_product",
    "edit_distance",
    "shared_suffix_tokens",
)


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks; equal values get their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: NDArray[np.float64] = last - (counts - 1) / 2
    return means[inverse]


def spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Rank correlation of the entries present in both."""
    both = np.isfinite(left) & np.isfinite(right)
    if both.sum() < 3 or len(np.unique(left[both])) == 1:
        return float("nan")
    return float(np.corrcoef(ranks(left[both]), ranks(right[both]))[0, 1])


class Study(NamedTuple):
    """A forecast of the first step, and the changes after real steps."""

    training: Forecast
    after: Mapping[int, NDArray[np.float64]]


def train(args: argparse.Namespace, loss: LossSettings) -> Study:
    """Forecast the first step and train."""
    settings = ScanSettings(limit=args.rows, loss=loss, unshared_cosine=True, device="cpu")
    step = ForecastSettings(learning_rate=args.lr)
    with open_forecast(str(SAMPLE / "model"), str(SAMPLE / args.data), None, settings, step) as ready:
        forecast = ready.run(lambda _: None).training
        return Study(forecast, real_changes(ready, forecast.pairs, loss, args.steps))


def real_changes(
    ready: Forecaster, pairs: Measured, loss: LossSettings, num_steps: int
) -> dict[int, NDArray[np.float64]]:
    """Changes after 1, 10, 100, ... and all steps on all pairs at once."""
    optimizer = make_optimizer(ready.policy.parameters, ready.optimizer, {})
    now, found = pairs.log_probs, {}
    try:
        for number in range(1, num_steps + 1):
            descent = ready.policy.gradient(pairs.tokens, step_shares(loss, pairs, now, [np.arange(len(pairs))]))
            factor = clip_factor(descent, ready.optimizer.max_grad_norm)
            for name, parameter in ready.policy.parameters.items():
                parameter.grad = -factor * descent[name]
            optimizer.step()
            optimizer.zero_grad()
            now = ready.policy.log_probs(pairs.tokens).numpy()
            if str(number).strip("0") == "1" or number == num_steps:
                found[number] = now - pairs.log_probs
    finally:
        ready.policy.weights.restore()
    return found


def shares(changes: NDArray[np.float64]) -> str:
    """Pairs with a falling chosen and a rising rejected log-prob."""
    return f"{np.mean(changes[0] < 0):.0%} / {np.mean(changes[1] > 0):.0%}"


def print_row(cells: list[str]) -> None:
    """A row of a markdown table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def print_header(cells: list[str]) -> None:
    """The head of a markdown table."""
    print_row(cells)
    print_row(["---"] * len(cells))


def main() -> None:
    """Train under every loss, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--data", default="long_ending.jsonl")
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    transformers.logging.set_verbosity_error()
    print(f"{args.data}, {args.rows} rows, AdamW, learning rate {args.lr:g}, all rows in every step\n")

    results: dict[str, Study] = {}
    for name in args.losses:
        result = results[name] = train(args, LOSSES[name])
        after = list(result.after)
        if len(results) == 1:
            print_header(["chosen falls / rejected rises", *ONE_STEP, *(f"after {number}" for number in after)])
        forecast = [shares(result.training.changes[predictor]) for predictor in ONE_STEP]
        print_row([describe_loss(LOSSES[name]), *forecast, *(shares(result.after[number]) for number in after)])

    print()
    print_header(["movement as named", *(f"{predictor}, after {number}" for predictor in ONE_STEP for number in after)])
    for name, result in results.items():
        cells = []
        for predictor in ONE_STEP:
            for number in after:
                found = agreement(result.training.changes[predictor], result.after[number])
                cells.append(f"{found.same_movement / found.pairs:.0%}")
        print_row([name, *cells])

    if "sigmoid" in results:
        print()
        result = results["sigmoid"]
        print_header(["ranks the chosen's change under DPO", *(f"after {number}" for number in after)])
        records = result.training.pairs.records
        columns = {f"{name}: chosen Δ": result.training.changes[name][0] for name in ONE_STEP}
        for measure in MEASURES:
            columns[measure] = np.array([getattr(record, measure) for record in records], dtype=float)
        for name, column in columns.items():
            found = [spearman(column, result.after[number][0]) for number in after]
            print_row([name, *("equal for all" if np.isnan(value) else f"{value:+.2f}" for value in found)])


if __name__ == "__main__":
    main()
