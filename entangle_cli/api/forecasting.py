"""Predicts one optimizer step, and performs it on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from entangle_cli.records.plan import ScanPlan
from entangle_cli.records.settings import ForecastSettings, ScanSettings


class ForecastObserver:
    """Receives the progress of a forecast. All methods do nothing unless overridden."""

    def planned(self, plan: ScanPlan) -> None:
        """Called after the model is loaded and the data are recognised."""

    @contextmanager
    def measuring(self, num_rows: int) -> Iterator[Callable[[int], None]]:
        """Entered while rows are measured. The yielded function is called with the number of newly finished rows."""
        del num_rows
        yield lambda _: None

    def said(self, line: str) -> None:
        """Called with a line about the current phase."""


def forecast(
    model: str,
    data: str | Sequence[str],
    settings: ScanSettings | None = None,
    step: ForecastSettings | None = None,
    eval_data: str | None = None,
    *,
    observer: ForecastObserver | None = None,
) -> dict[str, Any]:
    """The movement of every pair under one step of an optimizer on a whole batch.

    Args:
        model: a checkpoint's folder or hub name.
        data: the pairs of the step.
        settings: settings of the measurement, including the loss.
        step: the optimizer, its settings, and whether to perform real steps.
        eval_data: held-out pairs, which are not in the step.
        observer: receives progress.
    Returns:
        The forecast, JSON-able.
    Raises:
        EntangleError: the model, the data or a setting cannot be used.
    """
    from entangle_cli.diagnose.forecast.document import forecast_document
    from entangle_cli.diagnose.forecast.forecast import open_forecast

    settings, step, observer = settings or ScanSettings(), step or ForecastSettings(), observer or ForecastObserver()
    with open_forecast(model, data, eval_data, settings, step) as ready:
        observer.planned(ready.scan.plan)
        with observer.measuring(ready.scan.plan.num_selected) as advance:
            result = ready.run(advance, observer.said)
        return forecast_document(ready, result, settings.loss)
