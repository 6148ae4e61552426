"""The movement of every pair under one step of the user's optimizer on a whole batch, and the real step beside it.

With s = (d_c, -d_r) / n over the n pairs of a batch, -grad loss = sum_i s_i g_i =: D, and to first order a log-prob
with gradient g changes by <g, u> under an update u: lr D for plain gradient descent on the batch (`batch-sgd`), the
optimizer's own update for `optimizer`. `pair-sgd` keeps the pair's own part of D only, with the whole step for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from entangle_cli.data.sources import open_source
from entangle_cli.diagnose.forecast.optimizer_step import read_step, refuse_rate
from entangle_cli.diagnose.forecast.pairs import coefficients_of, held_out_pairs, training_pairs
from entangle_cli.diagnose.forecast.policy import Policy
from entangle_cli.diagnose.forecast.result import Forecast, ForecastResult, Measured, StepCheck, empty_forecast
from entangle_cli.diagnose.scan.row_reader import RowReader, pair_reader
from entangle_cli.diagnose.scan.scan import Scan, open_scan
from entangle_cli.engine.displacement import Derivatives
from entangle_cli.engine.scorer import Scorer
from entangle_cli.engine.update import clip_factor, make_optimizer, norm, optimizer_update
from entangle_cli.errors import NothingToJudgeError, UsageError
from entangle_cli.records.arrays import Floats
from entangle_cli.records.measurement import TokenizedPair
from entangle_cli.records.pair import PairRecord
from entangle_cli.records.settings import ForecastSettings, LossSettings, ScanSettings

Passes: TypeAlias = Sequence[NDArray[np.int64]]
"""Places of the pairs of one step, by forward pass."""

VERIFIED_FACTORS = (0.1, 1.0, 10.0)
"""Learning rates of the real steps, relative to the user's."""


class Forecaster:
    """A forecast that is ready to start; made by `open_forecast`.

    Attributes:
        scan: the measurement that it starts from.
        optimizer: the step, with the settings of the state where the user gave none.
        held_out: the held-out data set; None without one.
    """

    def __init__(
        self,
        scan: Scan,
        policy: Policy,
        held_out: RowReader | None,
        settings: ForecastSettings,
        loss: LossSettings,
        seed: int,
    ) -> None:
        self.scan = scan
        self._policy = policy
        self.held_out = held_out
        self._settings = settings
        self._loss = loss
        self._seed = seed
        self.optimizer, self._moments = read_step(settings, scan.checkpoint.model, scan.parameters)

    def run(self, advance: Callable[[int], None], tell: Callable[[str], None] = lambda _: None) -> ForecastResult:
        """Measure every pair, forecast the steps, and take them for real where the settings ask for it.

        Args:
            advance: told how many rows were measured.
            tell: told what comes next, in words.
        Raises:
            NothingToJudgeError: no pair can be measured.
            UnfinishedError: one pair alone does not fit into memory.
        """
        pairs, unused = training_pairs(self.scan, self._loss, advance)
        if not pairs:
            raise NothingToJudgeError(
                f"none of {len(unused):,} rows can take part in a step",
                "at least one pair that fits the model and --max-length, and that the loss weighs",
                "see the reasons with entangle scan",
            )
        held_out: Measured | None = None
        held_out_unused: list[PairRecord] = []
        if self.held_out is not None:
            held_out, held_out_unused = held_out_pairs(self.held_out, self._policy)
        steps = self._steps(len(pairs))
        tell(f"forecasting {len(steps):,} steps of {len(pairs):,} pairs")
        training, of_held_out, checks = self._forecast(pairs, held_out, steps)
        result = ForecastResult(
            optimizer=self.optimizer,
            state_step=max((moment.step for moment in self._moments.values()), default=None),
            training=training,
            held_out=of_held_out,
            checks=checks,
            unused=unused,
            held_out_unused=held_out_unused,
        )
        if self._settings.verify:
            for factor in VERIFIED_FACTORS:
                rate = self.optimizer.learning_rate * factor
                tell(f"taking {len(steps):,} real steps at a learning rate of {rate:.3g}")
                result.real_steps[rate] = self._real_step(pairs, steps, rate)
        if self._settings.steps:
            tell(f"training {self._settings.steps:,} real steps")
            self._train(pairs, held_out, steps, result)
        return result

    def _steps(self, num_pairs: int) -> list[Passes]:
        """The steps of one epoch, in the order of training."""
        if self._settings.batch_size is None:
            return [[np.arange(num_pairs)]]
        order = np.random.default_rng(self._seed).permutation(num_pairs)
        size = self._settings.batch_size
        passes = [order[start : start + size] for start in range(0, num_pairs, size)]
        every = self._settings.accumulate
        return [passes[start : start + every] for start in range(0, len(passes), every)]

    def _forecast(
        self, pairs: Measured, held_out: Measured | None, steps: Sequence[Passes]
    ) -> tuple[Forecast, Forecast | None, list[StepCheck]]:
        """Every pair under its own step, held-out pairs under the first, and how exact each step's derivatives are."""
        forecast, of_held_out, checks = empty_forecast(pairs), None, []
        own, rate = _OwnParts(pairs), self.optimizer.learning_rate
        for number, passes in enumerate(steps):
            places = np.concatenate(passes)
            tokens, before = [pairs.tokens[place] for place in places], pairs.log_probs[:, places]
            shares = self._shares(pairs, pairs.log_probs, passes)
            descent = self._policy.gradient(tokens, shares)
            update = self._update(descent)
            along_descent = self._policy.checked_derivatives(tokens, before, descent, shares, descent)
            along_update = self._policy.checked_derivatives(tokens, before, update, shares, descent)
            _take(forecast, places, along_descent.derivatives, along_update.derivatives, rate)
            if number == 0 and held_out is not None:
                of_held_out = self._forecast_held_out(
                    held_out, (descent, along_descent.relative_step), (update, along_update.relative_step)
                )
            own_part = rate * own.changes(places, shares)
            forecast.batch[places] = number
            forecast.changes["pair-sgd"][:, places] = rate * own.changes(places, self._alone(pairs, places))
            forecast.others[:, places] = forecast.changes["batch-sgd"][:, places] - own_part
            # With M = sum_i (g_c^i - g_r^i), pair j's part of the step changes all margins by lr <M, s_j g_j>: column
            # sums of the batch's Gram, by derivatives along one direction.
            ones = np.ones(len(tokens))
            margins = self._policy.gradient(tokens, np.stack([ones, -ones]))
            along_margins = self._policy.checked_derivatives(tokens, before, margins, shares, descent)
            on_all = rate * (shares * along_margins.derivatives.first.numpy()).sum(axis=0)
            forecast.influence[places] = on_all - (own_part[0] - own_part[1])
            checks.append(
                StepCheck(
                    max(found.identity_error for found in (along_descent, along_update, along_margins)),
                    norm(descent),
                    clip_factor(descent, self.optimizer.max_grad_norm),
                )
            )
        return forecast, of_held_out, checks

    def _forecast_held_out(
        self,
        held_out: Measured,
        descent: tuple[Mapping[str, Tensor], float],
        update: tuple[Mapping[str, Tensor], float],
    ) -> Forecast:
        """Pairs that take no part in a step, along its directions, each with the relative step that served it best."""
        forecast = empty_forecast(held_out)
        along_descent, along_update = (
            self._policy.derivatives(held_out.tokens, held_out.log_probs, direction, relative_step)
            for direction, relative_step in (descent, update)
        )
        _take(forecast, np.arange(len(held_out)), along_descent, along_update, self.optimizer.learning_rate)
        forecast.others[:] = forecast.changes["batch-sgd"]
        return forecast

    def _shares(self, pairs: Measured, log_probs: Floats, passes: Passes) -> Floats:
        """s of every pair of a step, [2, pairs]: the mean over a pass, averaged over the passes of a step."""
        parts = []
        for places in passes:
            coefficients = coefficients_of(self._loss, pairs, log_probs, places)
            weight = 1.0 / (len(places) * len(passes))
            parts.append(np.stack([weight * coefficients.chosen, -weight * coefficients.rejected]))
        shares = np.concatenate(parts, axis=1)
        # Finite at the checkpoint, see `training_pairs`; a pair that training drives out of range pushes no more.
        return np.where(np.isfinite(shares), shares, 0.0)

    def _alone(self, pairs: Measured, places: NDArray[np.int64]) -> Floats:
        """s of pairs that have a whole step each, [2, pairs]: no n-th of a mean."""
        return np.concatenate([self._shares(pairs, pairs.log_probs, [np.array([place])]) for place in places], axis=1)

    def _update(self, descent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loss_gradient = {name: -tensor for name, tensor in descent.items()}
        return optimizer_update(loss_gradient, self.scan.parameters, self.optimizer, self._moments)

    def _real_step(self, pairs: Measured, steps: Sequence[Passes], rate: float) -> Floats:
        """Measured changes of every pair under the real step of its own batch, each from the checkpoint's weights."""
        changes = np.full((2, len(pairs)), np.nan)
        for passes in steps:
            places = np.concatenate(passes)
            tokens = [pairs.tokens[place] for place in places]
            with self._trained(rate) as take_step:
                take_step(tokens, self._shares(pairs, pairs.log_probs, passes))
                changes[:, places] = self._policy.log_probs(tokens).numpy() - pairs.log_probs[:, places]
        return changes

    def _train(
        self, pairs: Measured, held_out: Measured | None, steps: Sequence[Passes], result: ForecastResult
    ) -> None:
        """Real steps one after the other, epoch after epoch; every pair is measured again after 1, 2, 5, 10, ..."""
        milestones = _milestones(self._settings.steps)
        with self._trained(self.optimizer.learning_rate) as take_step:
            for number in range(self._settings.steps):
                passes = steps[number % len(steps)]
                places = np.concatenate(passes)
                tokens = [pairs.tokens[place] for place in places]
                now = pairs.log_probs.copy()
                if number:
                    now[:, places] = self._policy.log_probs(tokens).numpy()
                take_step(tokens, self._shares(pairs, now, passes))
                if number + 1 in milestones:
                    result.trajectory[number + 1] = self._policy.log_probs(pairs.tokens).numpy() - pairs.log_probs
                    if held_out is not None:
                        after = self._policy.log_probs(held_out.tokens).numpy()
                        result.trajectory_held_out[number + 1] = after - held_out.log_probs

    @contextmanager
    def _trained(self, rate: float) -> Iterator[Callable[[Sequence[TokenizedPair], Floats], None]]:
        """Real steps of torch's optimizer on the weights inside; the checkpoint's weights afterwards."""
        settings = replace(self.optimizer, learning_rate=rate)
        optimizer = make_optimizer(self.scan.parameters, settings, self._moments)

        def take_step(tokens: Sequence[TokenizedPair], shares: Floats) -> None:
            descent = self._policy.gradient(tokens, shares)
            factor = clip_factor(descent, settings.max_grad_norm)
            for name, parameter in self.scan.parameters.items():
                parameter.grad = -factor * descent[name]
            optimizer.step()
            optimizer.zero_grad()

        try:
            yield take_step
        finally:
            optimizer.zero_grad()
            self._policy.weights.restore()


class _OwnParts:
    """The pairs' own Grams: what a pair does to itself."""

    def __init__(self, pairs: Measured) -> None:
        norms = np.array([[r.chosen_grad_norm, r.rejected_grad_norm] for r in pairs.records], dtype=float).T
        self._squares = norms**2
        self._inner = np.array([r.inner_product for r in pairs.records], dtype=float)

    def changes(self, places: NDArray[np.int64], shares: Floats) -> Floats:
        """Of both log-probs along the pair's own part of the descent direction, a unit of learning rate, [2, pairs]."""
        squares, inner = self._squares[:, places], self._inner[places]
        return np.stack([shares[0] * squares[0] + shares[1] * inner, shares[0] * inner + shares[1] * squares[1]])


def _take(
    forecast: Forecast,
    places: NDArray[np.int64],
    along_descent: Derivatives,
    along_update: Derivatives,
    rate: float,
) -> None:
    """Note the derivatives of some pairs."""
    forecast.changes["batch-sgd"][:, places] = rate * along_descent.first.numpy()
    forecast.changes["optimizer"][:, places] = along_update.first.numpy()
    forecast.error[:, places] = along_update.first_error.numpy()
    # A second order within its rounding may be as large as that: the rate below which first order surely leads.
    second = torch.maximum(along_update.second.abs(), along_update.second_error)
    forecast.valid_learning_rate[:, places] = rate * (2 * along_update.first.abs() / second).numpy()


def _milestones(steps: int) -> set[int]:
    """1, 2, 5, 10, 20, 50, ... and the last."""
    found = {lead * 10**power for power in range(len(str(steps))) for lead in (1, 2, 5)}
    return {number for number in found if number < steps} | {steps}


@contextmanager
def open_forecast(
    model: str, data: str | Sequence[str], eval_data: str | None, settings: ScanSettings, step: ForecastSettings
) -> Iterator[Forecaster]:
    """Open the data, the checkpoint and the optimizer's state; nothing is measured yet.

    Raises:
        DataError, ModelError, UsageError: see `scan.open_scan`; also for the optimizer's state.
    """
    if settings.dtype == "bfloat16":
        raise UsageError(
            "--dtype bfloat16", "float32 or float64: a small step vanishes in bfloat16 weights", "leave it out"
        )
    # Before the checkpoint is loaded, so that a wrong number or name is told at once.
    refuse_rate(step.learning_rate)
    # How rows are read holds for both; which part of which data set does not.
    reading = replace(settings.reading, split=step.eval_split, config_name=None, revision=None)
    source = None if eval_data is None else open_source(eval_data, reading)
    with open_scan(model, data, settings) as scan, Scorer(scan.checkpoint.model) as scorer:
        held_out = None
        if source is not None:
            pairs = pair_reader(source, reading)
            whole = replace(settings, limit=None, sample=None)
            held_out = RowReader(source, pairs, scan.checkpoint, whole)
        policy = Policy(scorer, scan.parameters, scan.plan.batch_tokens)
        yield Forecaster(scan, policy, held_out, step, settings.loss, settings.seed)
