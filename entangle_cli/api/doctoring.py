"""Examines a machine, a model, data and a trainer's file before a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from entangle_cli.records.settings import ScanSettings
from entangle_cli.records.training_setup import TrainingSetup


def examine(
    model: str | None = None,
    data: Sequence[str] = (),
    settings: ScanSettings | None = None,
    setup: TrainingSetup | None = None,
) -> dict[str, Any]:
    """Findings and what was seen, JSON-able; see `diagnose.doctor.doctor.examine`."""
    from entangle_cli.diagnose.doctor.doctor import examine as examined

    return examined(model, data, settings or ScanSettings(), setup)
