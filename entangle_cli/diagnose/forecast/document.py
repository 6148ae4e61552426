"""A forecast as plain data, for printing and for `--json`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from entangle_cli.analysis.agreement import agreement
from entangle_cli.analysis.movement import movement_names
from entangle_cli.analysis.statistics import quantiles, share
from entangle_cli.diagnose.forecast.forecast import Forecaster
from entangle_cli.diagnose.forecast.probe_document import probe_forecast_document
from entangle_cli.diagnose.forecast.result import LARGEST_DRIFT, ONE_STEP, Forecast, ForecastResult
from entangle_cli.diagnose.probes.document import skipped_probes
from entangle_cli.diagnose.views.movements import describe_loss
from entangle_cli.records.arrays import Floats, finite
from entangle_cli.records.pair import Movement, PairRecord
from entangle_cli.records.settings import LossSettings


def forecast_document(forecaster: Forecaster, result: ForecastResult, loss: LossSettings) -> dict[str, Any]:
    """The whole forecast, JSON-able. Changes are in nats at the user's learning rate."""
    optimizer = asdict(result.optimizer)
    optimizer["weight_decay"] = max(result.optimizer.weight_decay.values(), default=0.0)
    batches = np.bincount(result.training.batch)
    return {
        "schema": "entangle.forecast",
        "schema_version": "1.0",
        "model": forecaster.scan.identity.model,
        "data": forecaster.scan.identity.data,
        "held_out_data": None if forecaster.held_out is None else forecaster.held_out.identity,
        "measurement": forecaster.scan.identity.settings,
        "loss": {**asdict(loss), "text": describe_loss(loss)},
        "optimizer": {**optimizer, "steps_before": result.state_step},
        "steps": {"count": len(batches), "largest": int(batches.max())},
        "skipped": _reasons(result.unused),
        "held_out_skipped": _reasons(result.held_out_unused),
        "checks": [asdict(check) for check in result.checks],
        "run": {
            **asdict(result.reach),
            "lr_scheduler_type": forecaster.settings.lr_scheduler_type,
            "warmup_steps": forecaster.settings.warmup_steps,
            "drift_limit": LARGEST_DRIFT,
            "holds": result.reach.holds,
            "training": _outlook(result.training, loss.beta),
            "held_out": None if result.held_out is None else _outlook(result.held_out, loss.beta),
        },
        "summary": _summary(result.training),
        "held_out_summary": None if result.held_out is None else _summary(result.held_out),
        "verification": [
            {"learning_rate": rate, **row}
            for rate, measured in result.real_steps.items()
            for row in _agreements(result.training, measured, rate / result.optimizer.learning_rate)
        ],
        "pairs": _pairs(result.training, result.real_steps.get(result.optimizer.learning_rate)),
        "held_out": None if result.held_out is None else _pairs(result.held_out, None),
        "probes": _probes(forecaster, result),
    }


def _probes(forecaster: Forecaster, result: ForecastResult) -> dict[str, Any] | None:
    """The probe answers along the first step and the run; None without them."""
    file, forecast = forecaster.probe_file, result.probes
    if file is None or forecast is None:
        return None
    return {
        "data": file.identity,
        "generate": forecaster.settings.probe_generate,
        "skipped": skipped_probes(forecast.skipped),
        **probe_forecast_document(forecast, result.optimizer.learning_rate),
    }


def _outlook(forecast: Forecast, beta: float) -> dict[str, Any]:
    """DPO's loss, margin (nats) and accuracy before a run, and as forecast for its end; means over the pairs."""
    pairs = forecast.pairs
    start = beta * (pairs.log_probs - pairs.references)
    end = start + beta * forecast.changes["run"]
    outlook = {}
    for name, rewards in (("start", start), ("end", end)):
        margins = rewards[0] - rewards[1]
        outlook[name] = {
            "loss": float(np.logaddexp(0.0, -margins).mean()),
            "margin": float(margins.mean()),
            "accuracy": float((margins > 0).mean()),
        }
    return outlook


def _reasons(records: Iterable[PairRecord]) -> list[dict[str, Any]]:
    return [
        {name: getattr(record, name) for name in ("index", "file", "line", "pair_in_row", "reason", "detail")}
        for record in records
    ]


def _summary(forecast: Forecast) -> dict[str, Any]:
    """Shares of each movement by predictor, and the learning rates up to which the first order is valid."""
    finite = forecast.valid_learning_rate[np.isfinite(forecast.valid_learning_rate)]
    levels = {"p05": 0.05, "p50": 0.5, "p95": 0.95}
    missing: list[Any] = [None] * len(levels)
    return {
        "pairs": len(forecast.pairs),
        "movements": {
            name: _movement_shares(movement_names(*changes))
            for name, changes in forecast.changes.items()
            if np.isfinite(changes).any() or name in ("optimizer", "run")
        },
        "uncertain": int(np.count_nonzero(_uncertain(forecast))),
        "valid_learning_rate": dict(zip(levels, quantiles(finite, [*levels.values()]) or missing, strict=True)),
        "turned_by_others": _turned(forecast.changes["pair-sgd"], forecast.changes["batch-sgd"]),
    }


def _turned(alone: Floats, together: Floats) -> float | None:
    """Share of log-probs that change with a different sign in the batch than for the pair alone."""
    both = np.isfinite(alone) & np.isfinite(together)
    return float(np.mean(np.sign(alone[both]) != np.sign(together[both]))) if both.any() else None


def _movement_shares(names: NDArray[np.object_]) -> dict[str, Any]:
    movements = names.tolist()
    total = len(movements) - movements.count(None)
    return {movement.value: share(movements.count(movement.value), total) for movement in Movement}


def _uncertain(forecast: Forecast) -> NDArray[np.bool_]:
    """Whether one of a pair's two changes is within its rounding error, [pairs]."""
    return _within(forecast.changes["optimizer"], forecast.error)


def _within(changes: Floats, error: Floats) -> NDArray[np.bool_]:
    """Whether one of a pair's two changes is at most its rounding error, [pairs]."""
    within: NDArray[np.bool_] = np.abs(changes) <= error
    either: NDArray[np.bool_] = within[0] | within[1]
    return either


def _agreements(forecast: Forecast, measured: Floats, factor: float) -> Iterable[dict[str, Any]]:
    for predictor in ONE_STEP:
        predicted = forecast.changes[predictor] * factor
        if np.isfinite(predicted).any():
            yield {"predictor": predictor, **agreement(predicted, measured)._asdict()}


def _pairs(forecast: Forecast, real_step: Floats | None) -> list[dict[str, Any]]:
    names = {name: movement_names(*changes) for name, changes in forecast.changes.items()}
    uncertain = _uncertain(forecast)
    uncertain_run = _within(forecast.changes["run"], forecast.run_error)
    rows = []
    for position, record in enumerate(forecast.pairs.records):
        row: dict[str, Any] = {
            "index": record.index,
            "file": record.file,
            "line": record.line,
            "pair_in_row": record.pair_in_row,
            "pair_id": record.pair_id,
            "step": int(forecast.batch[position]),
            "chosen_log_prob": record.chosen_log_prob,
            "rejected_log_prob": record.rejected_log_prob,
            "uncertain": bool(uncertain[position]),
        }
        for name, changes in forecast.changes.items():
            row[name] = {**_both(changes, position), "movement": names[name][position]}
        row["run"]["uncertain"] = bool(uncertain_run[position])
        row["others"] = _both(forecast.others, position)
        row["influence_on_others_margins"] = finite(forecast.influence[position])
        chosen_rate, rejected_rate = forecast.valid_learning_rate[:, position]
        row["chosen_valid_learning_rate"], row["rejected_valid_learning_rate"] = map(
            finite, (chosen_rate, rejected_rate)
        )
        row["real_step"] = None if real_step is None else _both(real_step, position)
        rows.append(row)
    return rows


def _both(changes: Floats, position: int) -> dict[str, float | None]:
    return {"chosen_delta": finite(changes[0, position]), "rejected_delta": finite(changes[1, position])}
