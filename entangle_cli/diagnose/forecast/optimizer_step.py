"""Settings of the step: from the user, else from a saved optimizer, else the defaults of TRL and Trainer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from entangle_cli.data.optimizer_state import StoredOptimizer, decayed_names, read_optimizer
from entangle_cli.engine.update import AdamMoments
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import ForecastSettings, OptimizerSettings


def read_step(
    settings: ForecastSettings, model: nn.Module, parameters: Mapping[str, nn.Parameter]
) -> tuple[OptimizerSettings, dict[str, AdamMoments]]:
    """The settings of the step, and its initial moments; no moments without a saved state.

    Raises:
        UsageError: the learning rate is not positive, or a state is given for an optimizer without one.
        DataError: the state cannot be read or belongs to other parameters.
    """
    stored = _stored(settings, model, parameters)
    return _optimizer(settings, model, parameters, stored), {} if stored is None else _moments(stored)


def refuse_rate(rate: float | None) -> None:
    """Check the learning rate, if there is one.

    Raises:
        UsageError: it is not a finite number above 0.
    """
    if rate is not None and not (np.isfinite(rate) and rate > 0):
        raise UsageError(
            f"learning rate {rate:g}",
            "a finite number above 0",
            "set --learning-rate; a finished schedule saves a rate of 0",
        )


def _stored(
    settings: ForecastSettings, model: nn.Module, parameters: Mapping[str, nn.Parameter]
) -> StoredOptimizer | None:
    if settings.state is None:
        return None
    if settings.optimizer != "adamw":
        raise UsageError(
            f"--state with --optimizer {settings.optimizer}", "adamw; plain SGD has no state", "remove one of the two"
        )
    return read_optimizer(settings.state, model, parameters)


def _moments(stored: StoredOptimizer) -> dict[str, AdamMoments]:
    return {
        name: AdamMoments(moments.step, moments.exp_avg, moments.exp_avg_sq) for name, moments in stored.moments.items()
    }


def _optimizer(
    settings: ForecastSettings,
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    stored: StoredOptimizer | None,
) -> OptimizerSettings:
    """The settings of the step: from the user, else from the state, else the defaults of TRL and Trainer."""
    default = OptimizerSettings()
    rate = settings.learning_rate
    if rate is None:
        rate = default.learning_rate if stored is None else stored.learning_rate
    refuse_rate(rate)
    if settings.weight_decay is not None or stored is None:
        decayed = decayed_names(model)
        decay = {name: settings.weight_decay or 0.0 for name in parameters if name in decayed}
    else:
        decay = dict(stored.weight_decay)
    return OptimizerSettings(
        settings.optimizer,
        rate,
        decay,
        default.betas if stored is None else stored.betas,
        default.epsilon if stored is None else stored.epsilon,
        settings.max_grad_norm,
    )
