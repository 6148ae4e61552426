"""The log of a training with one of TRL's preference trainers, as Trainer saves it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entangle_cli.errors import DataError

FILE = "trainer_state.json"
LOGGED: Mapping[str, str] = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "logps/chosen": "chosen_log_prob",
    "logps/rejected": "rejected_log_prob",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
}
"""TRL's name of a logged number to ours."""


@dataclass(frozen=True, slots=True)
class LogPoint:
    """What was logged at one step: means over the batches since the point before."""

    step: int
    values: Mapping[str, float]
    """By the names of `LOGGED`. Numbers that are missing or not finite are left out."""


@dataclass(frozen=True, slots=True)
class TrainerLog:
    """The log of one training."""

    file: Path
    train: Sequence[LogPoint]
    evaluation: Sequence[LogPoint]


def read_trainer_log(path: Path) -> TrainerLog:
    """Read a `trainer_state.json`, or that of a folder.

    Raises:
        DataError: the file cannot be read, or holds no log of a preference trainer.
    """
    file = path / FILE if path.is_dir() else path
    try:
        history = json.loads(file.read_text(encoding="utf-8"), parse_int=float)["log_history"]
        entries = [(int(entry["step"]), entry) for entry in history]
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no log_history with steps, as Trainer writes it"
        raise DataError(
            f"--trainer-log {file}: {reason}", f"a {FILE}", "give that of the training's last checkpoint"
        ) from error
    train, evaluation = ([_point(step, entry, prefix) for step, entry in entries] for prefix in ("", "eval_"))
    log = TrainerLog(file, *([point for point in points if _is_of_pairs(point)] for points in (train, evaluation)))
    if not log.train:
        raise DataError(
            f"--trainer-log {file}: none of {len(entries):,} entries has rewards/chosen or logps/chosen",
            "the log of a TRL trainer for preference pairs, such as DPOTrainer",
            "give the log of such a training; logging_steps sets how much it holds",
        )
    return log


def _point(step: int, entry: Mapping[str, Any], prefix: str) -> LogPoint:
    values = {}
    for name, own in LOGGED.items():
        value = entry.get(prefix + name)
        if isinstance(value, float) and math.isfinite(value):
            values[own] = value
    return LogPoint(step, values)


def _is_of_pairs(point: LogPoint) -> bool:
    return "chosen_reward" in point.values or "chosen_log_prob" in point.values
