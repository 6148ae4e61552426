"""The forecast of probe answers as plain data. Changes are in nats at the user's learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from entangle_cli.analysis.agreement import relative_error, slope_of
from entangle_cli.analysis.probe_groups import group_changes
from entangle_cli.diagnose.forecast.followed_probes import ProbeForecast
from entangle_cli.diagnose.probes.document import probe_groups, probe_row
from entangle_cli.records.arrays import Floats, finite


def probe_forecast_document(forecast: ProbeForecast, rate: float) -> dict[str, Any]:
    """Rows, groups, and the agreement with real steps.

    Args:
        rate: the user's learning rate.
    """
    rows = [probe_row(probe) for probe in forecast.probes]
    real = forecast.real_steps.get(rate)
    columns = {
        "log_prob": forecast.log_probs,
        "change_optimizer": forecast.changes["optimizer"],
        "change_error": forecast.errors["optimizer"],
        "change_run": forecast.changes["run"],
        "change_run_error": forecast.errors["run"],
        "change_real": real,
    }
    return {
        "groups": _groups(forecast, rows, real),
        "verification": [
            _agreement(forecast.changes["optimizer"] * (tried / rate), measured, tried)
            for tried, measured in forecast.real_steps.items()
        ],
        "rows": [
            {**row, **{name: None if values is None else finite(values[place]) for name, values in columns.items()}}
            for place, row in enumerate(rows)
        ],
    }


def _groups(forecast: ProbeForecast, rows: Sequence[dict[str, Any]], real: Floats | None) -> list[dict[str, Any]]:
    names = [row["group"] for row in rows]
    tokens = np.array([row["tokens"] for row in rows], dtype=np.float64)
    by_source = {
        predictor: group_changes(names, changes, forecast.errors[predictor], tokens)
        for predictor, changes in forecast.changes.items()
    }
    if real is not None:
        by_source["real_step"] = group_changes(names, real, np.zeros_like(real), tokens)
    return [
        {
            **about,
            **{source: by_source[source][group] if source in by_source else None for source in SOURCES},
        }
        for group, about in probe_groups(rows).items()
    ]


SOURCES = ("optimizer", "run", "real_step")
"""Where changes come from: the forecasts of the first step and of the run, and the real first step."""


def _agreement(predicted: Floats, measured: Floats, rate: float) -> dict[str, Any]:
    """How right the forecast of the optimizer's step was."""
    both = np.isfinite(predicted) & np.isfinite(measured)
    before, after = predicted[both], measured[both]
    return {
        "learning_rate": rate,
        "log_probs": len(before),
        "same_sign": int(np.count_nonzero(np.sign(before) == np.sign(after))),
        "slope": slope_of(before, after),
        "relative_error": relative_error(before, after),
    }
