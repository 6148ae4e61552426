"""The curves of a finished training beside what the scan of its start saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entangle_cli.analysis.logged_changes import (
    ANSWERS,
    changes_by_log_probs,
    changes_by_rewards,
    is_without_reference,
    start_and_end,
)
from entangle_cli.analysis.losses.table import find_loss
from entangle_cli.analysis.statistics import share
from entangle_cli.data.trainer_log import LogPoint, read_trainer_log
from entangle_cli.diagnose.views.comparing import about_run
from entangle_cli.diagnose.views.movements import with_movements
from entangle_cli.errors import UsageError
from entangle_cli.records.columns import Columns
from entangle_cli.records.pair import Status
from entangle_cli.records.run import Run

BY_REWARDS, BY_LOG_PROBS = "rewards", "log_probs"


def trained_document(run: Run, path: Path) -> dict[str, Any]:
    """The document, JSON-able.

    Args:
        run: the scan of the training's start, under the loss of the training.
        path: `trainer_state.json`, or a folder with it.
    Returns:
        `run`; `log`; `curves`, changes in nats by `train` and `eval`; `answers`, what the scan saw and what happened.
    Raises:
        DataError: the log cannot be read.
        UsageError: the log is of a loss without a reference, and the run's loss has one.
    """
    log = read_trainer_log(path)
    columns = with_movements(run.columns, run.loss, run.identity.dtype)
    is_logged = any("chosen_reward" in point.values for point in log.train)
    has_rewards = find_loss(run.loss.name).uses_reference and run.loss.beta > 0 and is_logged
    if has_rewards and is_without_reference([point.values for point in log.train], run.loss.beta):
        raise UsageError(
            f"--trainer-log {log.file}: the rewards are the log-probs times beta, so the training had no reference",
            f"the loss of the training, instead of {run.loss.name}",
            "add --loss and --beta as in the training, for example --loss cpo",
        )
    basis = BY_REWARDS if has_rewards else BY_LOG_PROBS
    curves = {
        "train": _curve(log.train, basis, run.loss.beta),
        "eval": _curve(log.evaluation, basis, run.loss.beta),
    }
    return {
        "schema": "entangle.trained",
        "schema_version": "1.0",
        "predictor": "pair-sgd",
        "run": about_run(run, columns),
        "log": {"file": str(log.file), "steps": log.train[-1].step, "points": len(log.train), "changes_from": basis},
        "curves": curves,
        "answers": {answer: _answer(answer, columns, curves["train"]) for answer in ANSWERS},
    }


def _curve(points: Sequence[LogPoint], basis: str, beta: float) -> list[dict[str, Any]]:
    values = [point.values for point in points]
    changes = changes_by_rewards(values, beta) if basis == BY_REWARDS else changes_by_log_probs(values)
    return [
        {
            "step": point.step,
            "loss": point.values.get("loss"),
            "accuracy": point.values.get("reward_accuracy"),
            "chosen_log_prob": point.values.get("chosen_log_prob"),
            "rejected_log_prob": point.values.get("rejected_log_prob"),
            "chosen_change": change.get("chosen"),
            "rejected_change": change.get("rejected"),
            "margin_change": change["chosen"] - change["rejected"] if len(change) == len(ANSWERS) else None,
        }
        for point, change in zip(points, changes, strict=True)
    ]


def _answer(answer: str, columns: Columns, curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the scan saw of an answer, and what the training did to it.

    `as_predicted` is None if the pairs do not clearly agree on a direction, or the log does not have the answer.
    """
    is_measured = (columns["status"] == Status.OK.value) & np.isfinite(columns[f"{answer}_delta"])
    deltas = columns[f"{answer}_delta"][is_measured]
    falls = share(int(np.count_nonzero(deltas < 0)), len(deltas))
    both_ends = start_and_end([change for point in curve if (change := point[f"{answer}_change"]) is not None])
    change = None if both_ends is None else both_ends[1]
    is_clear = falls["interval"] is not None and not falls["interval"][0] <= 0.5 <= falls["interval"][1]
    as_predicted = None if change is None or not is_clear or change == 0 else (falls["rate"] > 0.5) == (change < 0)
    return {"falls": falls, "change": change, "as_predicted": as_predicted}
