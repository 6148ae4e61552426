"""Which step is forecast: the user's numbers, else those of a saved optimizer, else TRL's and Trainer's defaults."""

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
    """The numbers of the step, and the moments that it starts from; none without a state.

    Raises:
        UsageError: a learning rate that is not positive, or a state for an optimizer that has none.
        DataError: a state that cannot be read or belongs to other parameters.
    """
    stored = _stored(settings, model, parameters)
    return _optimizer(settings, model, parameters, stored), {} if stored is None else _moments(stored)


def refuse_rate(rate: float | None) -> None:
    """Refuse a learning rate that is given and not positive.

    Raises:
        UsageError: see above.
    """
    if rate is not None and not (np.isfinite(rate) and rate > 0):
        raise UsageError(
            f"learning rate {rate:g}", "a finite number above 0", "give --lr; the end of a schedule leaves 0 in a state"
        )


def _stored(
    settings: ForecastSettings, model: nn.Module, parameters: Mapping[str, nn.Parameter]
) -> StoredOptimizer | None:
    if settings.state is None:
        return None
    if settings.optimizer != "adamw":
        raise UsageError(
            f"--state with --optimizer {settings.optimizer}", "adamw: plain SGD keeps no state", "leave one of them out"
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
    """The step's numbers: the user's, else the state's, else TRL's and Trainer's defaults."""
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
