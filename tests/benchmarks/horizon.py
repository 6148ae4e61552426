"""How far ahead the forecast of a run is right: predictors against real training, over its steps.

    python -m tests.benchmarks.horizon MODEL DATA [DATA ...] [--steps 200] [--loss-goal 0.6 0.3] [--pairs 128] [--table]

A quarter of each data set's pairs is held out. The policy is trained on the rest with torch's AdamW as TRL does (batch
8, gradients clipped at 1, 10 % warm-up, linear decay, DPO with beta 0.1, the checkpoint as reference). The learning
rate is the one at which the forecast expects the loss to reach the goal. A gentle run ends at 0.6, a hard one at 0.3.

Each line compares changes since the start with those of the real run, after k steps:
    run         the forecast of a run, times the share of the learning rates so far
    optimizer   the forecast of a pair's first step, times the learning rates so far over the first: version 0.5's
    pair-sgd    the pair alone, plain gradient descent: a scan's. Only its directions and its ranks mean something
    early       the real changes after 30 steps, extrapolated by the learning rates
    mean        every pair moves as the mean pair really did
    majority    every pair moves as most pairs really did
    ches        CHES ranks the pairs by the change of the chosen log-prob; the others have no meaning
    ceiling     a second real run, with another order of batches

class: pairs with the right directions of both answers; low and high are its 95 % interval. balanced: the mean over the
classes that occur. R2: skill against predicting no change beyond the mean, over both answers. rank: Spearman's
correlation for chosen / rejected. falls: predicted falls that were falls. drift: see `forecast`.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from entangle_cli.analysis.movement import movement_names
from entangle_cli.analysis.statistics import share
from entangle_cli.data.learning_rates import learning_rates
from entangle_cli.diagnose.forecast.forecast import Forecaster, open_forecast
from entangle_cli.diagnose.forecast.horizon import MeanDescent, median_drift
from entangle_cli.diagnose.forecast.pairs import epoch_steps, step_shares
from entangle_cli.diagnose.forecast.result import Forecast, Measured
from entangle_cli.engine.update import clip_factor, make_optimizer
from entangle_cli.records.settings import ForecastSettings, LossSettings, ScanSettings
from tests.benchmarks.training_study import spearman

Changes = NDArray[np.float64]

BATCH_SIZE = 8
WARMUP = 0.1
EARLY = 30
FIRST_RATE = 1e-6
LOSS = LossSettings()


@dataclass(frozen=True, slots=True)
class Setting:
    """A model on a data set."""

    model: str
    train: Path
    held_out: Path
    num_steps: int
    max_length: int


def split(data: Path, folder: Path, num_pairs: int) -> tuple[Path, Path]:
    """Write the training and the held-out rows of a data set."""
    lines = data.read_text().splitlines()
    random.Random(0).shuffle(lines)
    lines = lines[:num_pairs]
    files = []
    for name, part in (("held", lines[: len(lines) // 4]), ("train", lines[len(lines) // 4 :])):
        files.append(folder / f"{data.stem}.{name}.jsonl")
        files[-1].write_text("\n".join(part) + "\n")
    return files[1], files[0]


def step_settings(setting: Setting, rate: float) -> ForecastSettings:
    return ForecastSettings(learning_rate=rate, batch_size=BATCH_SIZE, horizon=setting.num_steps, warmup_steps=WARMUP)


def expected_loss(changes: Changes, factor: float) -> float:
    margins = LOSS.beta * factor * (changes[0] - changes[1])
    return float(np.logaddexp(0.0, -margins).mean())


def rate_for(changes: Changes, rate: float, goal: float) -> float | None:
    """The lowest learning rate at which a run's forecast, made for `rate`, expects the loss to reach the goal.

    None if it never does: some pairs move the wrong way, and their loss grows.
    """
    factors = np.geomspace(1e-3, 1e4, 1400)
    reached = [factor for factor in factors if expected_loss(changes, factor) <= goal]
    return rate * float(reached[0]) if reached else None


def order_of(num_pairs: int, num_steps: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The pairs of each step: shuffled epochs, the last short batch included."""
    generator = np.random.default_rng(seed)
    done = 0
    while True:
        shuffled = generator.permutation(num_pairs)
        for start in range(0, num_pairs, BATCH_SIZE):
            if done == num_steps:
                return
            done += 1
            yield shuffled[start : start + BATCH_SIZE]


def train(
    ready: Forecaster, pairs: Measured, held_out: Measured, rates: Sequence[float], seed: int, milestones: Sequence[int]
) -> dict[int, tuple[Changes, Changes]]:
    """Real training from the checkpoint; changes of both sets after some steps. Restores the weights."""
    policy, parameters = ready.policy, ready.policy.parameters
    optimizer = make_optimizer(parameters, replace(ready.optimizer, learning_rate=rates[0]), {})
    found = {}
    try:
        for step, positions in enumerate(order_of(len(pairs), len(rates), seed)):
            tokens = [pairs.tokens[position] for position in positions]
            now = pairs.log_probs.copy()
            now[:, positions] = policy.log_probs(tokens).numpy()
            descent = policy.gradient(tokens, step_shares(LOSS, pairs, now, [positions]))
            factor = clip_factor(descent, ready.optimizer.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
            for name, parameter in parameters.items():
                parameter.grad = -factor * descent[name]
            optimizer.step()
            optimizer.zero_grad()
            if step + 1 in milestones:
                found[step + 1] = (
                    policy.log_probs(pairs.tokens).numpy() - pairs.log_probs,
                    policy.log_probs(held_out.tokens).numpy() - held_out.log_probs,
                )
    finally:
        policy.weights.restore()
    return found


def judged(predicted: Changes, real: Changes) -> dict[str, float]:
    """How right a predictor was."""
    names, expected = movement_names(*predicted), movement_names(*real)
    right = names == expected
    by_class = [float(right[expected == name].mean()) for name in set(expected.tolist())]
    spread = ((real - real.mean(1, keepdims=True)) ** 2).sum()
    falls = predicted < 0
    low, high = share(int(right.sum()), len(right))["interval"]
    return {
        "class": float(right.mean()),
        "low": low,
        "high": high,
        "balanced": float(np.mean(by_class)),
        "R2": 1.0 - float(((real - predicted) ** 2).sum() / spread) if spread else float("nan"),
        "rank_chosen": spearman(predicted[0], real[0]),
        "rank_rejected": spearman(predicted[1], real[1]),
        "falls": float((real[falls] < 0).mean()) if falls.any() else float("nan"),
    }


def predictions(
    forecast: Forecast,
    side: int,
    step: int,
    rates: Sequence[float],
    real: Mapping[int, tuple[Changes, Changes]],
    again: Mapping[int, tuple[Changes, Changes]],
) -> Iterator[tuple[str, Changes]]:
    """Name and changes after a number of steps, per predictor."""
    so_far = sum(rates[:step])
    yield "run", forecast.changes["run"] * so_far / sum(rates)
    yield "optimizer", forecast.changes["optimizer"] * so_far / max(rates)
    if step > EARLY in real:
        yield "early", real[EARLY][side] * so_far / sum(rates[:EARLY])
    if side == 0:  # held-out pairs have no gradients of their own
        yield "pair-sgd", forecast.changes["pair-sgd"] * so_far / max(rates)
        ches = np.array([record.ches for record in forecast.pairs.records], dtype=float)
        yield "ches", np.stack([ches, ches])
    yield "majority", _majority(real[step][side])
    yield "mean", np.repeat(real[step][side].mean(1, keepdims=True), real[step][side].shape[1], axis=1)
    yield "ceiling", again[step][side]


def _majority(real: Changes) -> Changes:
    """Changes of one nat in the directions that are most frequent."""
    signs, counts = np.unique(np.sign(real), axis=1, return_counts=True)
    return np.repeat(signs[:, [counts.argmax()]], real.shape[1], axis=1)


def scan_settings(max_length: int) -> ScanSettings:
    return ScanSettings(device="cpu", loss=LOSS, max_length=max_length)


def drift_of(ready: Forecaster, pairs: Measured, settings: ForecastSettings, rate_sum: float) -> float | None:
    """The drift along a run of another learning rate."""
    steps = epoch_steps(len(pairs), settings, seed=0)
    mean = MeanDescent(len(steps), ready.optimizer, {})
    for passes in steps:
        positions = np.concatenate(passes)
        shares = step_shares(LOSS, pairs, pairs.log_probs, passes)
        mean.add(ready.policy.gradient([pairs.tokens[place] for place in positions], shares))
    return median_drift(ready.policy, pairs, mean.update(ready.policy.parameters, rate_sum))[0]


def scaled(forecast: Forecast, factor: float) -> Forecast:
    """The forecast for another learning rate. It is linear in the rate."""
    return replace(forecast, changes={name: factor * changes for name, changes in forecast.changes.items()})


def study(setting: Setting, goals: Sequence[float]) -> Iterator[dict[str, object]]:
    """Per goal, train twice and judge every predictor, in lines of numbers."""
    settings = step_settings(setting, FIRST_RATE)
    milestones = sorted({step for step in (1, 3, 10, 30, 100, 200) if step < setting.num_steps} | {setting.num_steps})
    with open_forecast(
        setting.model, str(setting.train), str(setting.held_out), scan_settings(setting.max_length), settings
    ) as ready:
        result = ready.run(lambda _: None)
        assert result.held_out is not None
        for goal in goals:
            rate = rate_for(result.training.changes["run"], FIRST_RATE, goal)
            if rate is None:
                yield {"goal": goal, "rate": None}
                continue
            forecasts = [scaled(forecast, rate / FIRST_RATE) for forecast in (result.training, result.held_out)]
            rates = learning_rates(settings, rate, setting.num_steps)
            sets = [forecast.pairs for forecast in forecasts]
            real, again = (train(ready, *sets, rates, seed, milestones) for seed in (1, 2))
            yield {
                "goal": goal,
                "rate": rate,
                "loss": expected_loss(real[setting.num_steps][0], 1.0),
                "predicted_loss": expected_loss(forecasts[0].changes["run"], 1.0),
                "drift": drift_of(ready, sets[0], settings, sum(rates)),
            }
            for side, name in enumerate(("train", "held")):
                for step in milestones:
                    for predictor, predicted in predictions(forecasts[side], side, step, rates, real, again):
                        numbers = judged(predicted, real[step][side])
                        yield {"goal": goal, "pairs": name, "steps": step, "predictor": predictor, **numbers}


COLUMNS = ("run", "optimizer", "pair-sgd", "early", "mean", "majority", "ceiling")


def print_table(lines: Sequence[Mapping[str, Any]], num_steps: int) -> None:
    """The ends of the runs as Markdown, for pairs in training / held out: class, R2 and rank of the chosen answer."""
    print("| data | loss at the end | drift |", " | ".join(COLUMNS), "| R2 of run | rank of run | rank of ches |")
    print("|" + "---|" * (len(COLUMNS) + 6))
    for head in (line for line in lines if "drift" in line):
        own = [each for each in lines if (each["data"], each["goal"]) == (head["data"], head["goal"])]
        end = {(each["predictor"], each["pairs"]): each for each in own if each.get("steps") == num_steps}

        def both(predictor: str, name: str, form: str, end: Mapping[Any, Any] = end) -> str:
            known = [end.get((predictor, pairs)) for pairs in ("train", "held")]
            return " / ".join("-" if each is None else format(each[name], form) for each in known)

        cells = [both(predictor, "class", ".0%") for predictor in COLUMNS]
        cells += [both("run", "R2", ".2f"), both("run", "rank_chosen", ".2f"), both("ches", "rank_chosen", ".2f")]
        drift = "-" if head["drift"] is None else f"{head['drift']:.3f}"
        print(f"| {head['data']} | {head['loss']:.2f} | {drift} |", " | ".join(cells), "|")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--table", action="store_true", help="print a table of the runs' ends after the lines")
    parser.add_argument("--loss-goal", type=float, nargs="+", default=[0.6, 0.3])
    parser.add_argument("--pairs", type=int, default=128)
    return parser.parse_args()


def main() -> None:
    """Print one JSON line per comparison."""
    arguments = parse_arguments()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for data in arguments.data:
            setting = Setting(
                arguments.model, *split(data, Path(folder), arguments.pairs), arguments.steps, arguments.max_length
            )
            for line in study(setting, arguments.loss_goal):
                lines.append({"data": data.stem, **line})
                print(json.dumps(lines[-1]), flush=True)
    if arguments.table:
        print_table(lines, arguments.steps)


if __name__ == "__main__":
    main()
