"""Predicts the movement of every pair under one optimizer step on a batch, and compares it with the real step.

For a batch of n pairs let s = (d_c, -d_r) / n and D = -grad loss = sum_i s_i g_i. To first order, an update u changes
a log-prob with gradient g by <g, u>. `batch-sgd` uses u = lr D. `optimizer` uses the optimizer's own update. `pair-sgd`
uses the step of a batch that contains only this pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from entangle_cli.data.learning_rates import learning_rates, refuse_schedule
from entangle_cli.data.probe_answers import ProbeFile, read_probe_answers, refuse_probe_settings
from entangle_cli.data.sources import open_source
from entangle_cli.diagnose.forecast.followed_probes import FollowedProbes
from entangle_cli.diagnose.forecast.horizon import MeanDescent, forecast_run
from entangle_cli.diagnose.forecast.optimizer_step import read_step, refuse_rate
from entangle_cli.diagnose.forecast.pairs import Passes, epoch_steps, held_out_pairs, step_shares, training_pairs
from entangle_cli.diagnose.forecast.policy import Policy
from entangle_cli.diagnose.forecast.real_steps import RealSteps
from entangle_cli.diagnose.forecast.result import (
    Forecast,
    ForecastResult,
    Measured,
    StepCheck,
    empty_forecast,
)
from entangle_cli.diagnose.probes.own_answers import with_own_answers
from entangle_cli.diagnose.probes.tokenized import tokenize_probes
from entangle_cli.diagnose.scan.loaded_model import LoadedModel
from entangle_cli.diagnose.scan.opening import open_local_scan
from entangle_cli.diagnose.scan.row_preparation import token_settings
from entangle_cli.diagnose.scan.row_reader import RowReader, pair_reader
from entangle_cli.diagnose.scan.scan import Scan
from entangle_cli.engine.displacement import Derivatives
from entangle_cli.engine.scorer import Scorer
from entangle_cli.engine.update import clip_factor, norm, optimizer_update
from entangle_cli.errors import NothingToJudgeError, UsageError
from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import PairRecord
from entangle_cli.records.settings import ForecastSettings, ScanSettings
from entangle_cli.records.words import counted

VERIFIED_FACTORS = (0.1, 1.0, 10.0)
"""Learning rates of the real steps, relative to the user's rate."""


class Forecaster:
    """A forecast that is ready to start, created by `open_forecast`.

    Attributes:
        scan: the scan of the pairs.
        optimizer: settings of the step, completed from the saved state.
        policy: the model whose weights move.
        held_out: the held-out data set; None without one.
        probe_file: the probe answers; None without them.
        settings: settings of the step and the run.
    """

    def __init__(
        self,
        scan: Scan,
        model: LoadedModel,
        policy: Policy,
        held_out: RowReader | None,
        probe_file: ProbeFile | None,
        settings: ForecastSettings,
        measuring: ScanSettings,
    ) -> None:
        self.scan = scan
        self._model = model
        self.policy = policy
        self.held_out = held_out
        self.probe_file = probe_file
        self.settings = settings
        self._measuring = measuring
        self._loss = measuring.loss
        self._seed = measuring.seed
        self.optimizer, self._moments = read_step(settings, model.checkpoint.model, model.parameters)

    def run(self, advance: Callable[[int], None], notify: Callable[[str], None] = lambda _: None) -> ForecastResult:
        """Measure every pair and forecast the steps. Perform real steps if the settings request them.

        Args:
            advance: called with the number of newly measured rows.
            notify: called with a sentence about the next phase.
        Raises:
            NothingToJudgeError: no pair can be used.
            DataError: no held-out pair or no probe answer can be used.
            UnfinishedError: a single pair does not fit into memory.
        """
        probes = None if self.probe_file is None else self._followed(self.probe_file, notify)
        pairs, unused = training_pairs(self.scan, self._model.measurer, self._loss, advance)
        if not pairs:
            raise NothingToJudgeError(
                f"none of {len(unused):,} rows can be used in a step",
                "at least one pair that fits the model and --max-length, and has a defined loss",
                "run entangle scan to see the reasons",
            )
        held_out: Measured | None = None
        held_out_unused: list[PairRecord] = []
        if self.held_out is not None:
            held_out, held_out_unused = held_out_pairs(self.held_out, self.policy)
        steps = epoch_steps(len(pairs), self.settings, self._seed)
        notify(f"forecasting {counted(len(steps), 'step')} of {counted(len(pairs), 'pair')}")
        num_steps = self.settings.horizon or math.ceil(self.settings.epochs * len(steps))
        rates = learning_rates(self.settings, self.optimizer.learning_rate, num_steps)
        mean = MeanDescent(len(steps), self.optimizer, self._moments)
        training, held_out_forecast, checks, shares = self._forecast(pairs, held_out, probes, steps, mean)
        notify(f"forecasting a run of {counted(len(rates), 'step')}")
        reach = forecast_run(self.policy, training, held_out_forecast, probes, mean, shares, rates)
        result = ForecastResult(
            optimizer=self.optimizer,
            state_step=max((moment.step for moment in self._moments.values()), default=None),
            training=training,
            held_out=held_out_forecast,
            probes=None if probes is None else probes.forecast,
            checks=checks,
            reach=reach,
            unused=unused,
            held_out_unused=held_out_unused,
        )
        real_steps = RealSteps(self.policy, self._loss, self.optimizer, self._moments)
        if self.settings.verify:
            for factor in VERIFIED_FACTORS:
                rate = self.optimizer.learning_rate * factor
                notify(f"performing {len(steps):,} real steps at a learning rate of {rate:.3g}")
                result.real_steps[rate] = real_steps.changes(pairs, steps, rate, probes)
        return result

    def _followed(self, file: ProbeFile, notify: Callable[[str], None]) -> FollowedProbes:
        """The probe answers, measured before the step; the model's own answers are written now."""
        checkpoint, measuring = self._model.checkpoint, self._measuring
        tokenizer = checkpoint.tokenizer_of_model
        settings = token_settings(
            tokenizer, measuring.max_length, measuring.truncation, measuring.reading.max_row_bytes
        )
        probes, skipped = tokenize_probes(file, tokenizer, settings)
        if num_own := sum(probe.answer.is_own for probe in probes):
            notify(f"writing the model's own answers to {counted(num_own, 'prompt')}")
            most = self.settings.probe_generate or 0
            probes = with_own_answers(checkpoint.model, tokenizer.tokenizer, probes, settings, most)
        return FollowedProbes(self.policy, probes, skipped)

    def _forecast(
        self,
        pairs: Measured,
        held_out: Measured | None,
        probes: FollowedProbes | None,
        steps: Sequence[Passes],
        mean: MeanDescent,
    ) -> tuple[Forecast, Forecast | None, list[StepCheck], Floats]:
        """Forecast training pairs in their own steps, and held-out pairs and probe answers in the first.

        Args:
            mean: collects the descents of the steps.
        Returns:
            The forecasts, one check per step, and the share s [2, pairs] of every pair in the mean descent.
        """
        forecast, held_out_forecast, checks = empty_forecast(pairs), None, []
        all_shares = np.zeros((2, len(pairs)))
        own, rate = _OwnParts(pairs), self.optimizer.learning_rate
        for number, passes in enumerate(steps):
            positions = np.concatenate(passes)
            tokens, before = [pairs.tokens[position] for position in positions], pairs.log_probs[:, positions]
            shares = step_shares(self._loss, pairs, pairs.log_probs, passes)
            descent = self.policy.gradient(tokens, shares)
            all_shares[:, positions] = mean.add(descent) * shares
            update = self._update(descent)
            along_descent = self.policy.checked_derivatives(tokens, before, descent, shares, descent)
            along_update = self.policy.checked_derivatives(tokens, before, update, shares, descent)
            _store(forecast, positions, along_descent.derivatives, along_update.derivatives, rate)
            if number == 0 and held_out is not None:
                held_out_forecast = self._forecast_held_out(
                    held_out, (descent, along_descent.relative_step), (update, along_update.relative_step)
                )
            if number == 0 and probes is not None:
                probes.follow("optimizer", update, along_update.relative_step)
            own_part = rate * own.changes(positions, shares)
            forecast.batch[positions] = number
            forecast.changes["pair-sgd"][:, positions] = rate * own.changes(positions, self._alone(pairs, positions))
            forecast.others[:, positions] = forecast.changes["batch-sgd"][:, positions] - own_part
            # With M = sum_i (g_c^i - g_r^i), pair j's part of the step changes the sum of all margins by
            # lr <M, s_j g_j>. One direction of derivatives gives these column sums of the batch's Gram matrix.
            ones = np.ones(len(tokens))
            margins = self.policy.gradient(tokens, np.stack([ones, -ones]))
            along_margins = self.policy.checked_derivatives(tokens, before, margins, shares, descent)
            on_all = rate * (shares * along_margins.derivatives.first.numpy()).sum(axis=0)
            forecast.influence[positions] = on_all - (own_part[0] - own_part[1])
            checks.append(
                StepCheck(
                    max(checked.identity_error for checked in (along_descent, along_update, along_margins)),
                    norm(descent),
                    clip_factor(descent, self.optimizer.max_grad_norm),
                )
            )
        return forecast, held_out_forecast, checks, all_shares

    def _forecast_held_out(
        self,
        held_out: Measured,
        descent: tuple[Mapping[str, Tensor], float],
        update: tuple[Mapping[str, Tensor], float],
    ) -> Forecast:
        """Forecast pairs outside a step, along two directions with their most accurate relative steps."""
        forecast = empty_forecast(held_out)
        along_descent, along_update = (
            self.policy.derivatives(held_out.tokens, held_out.log_probs, direction, relative_step)
            for direction, relative_step in (descent, update)
        )
        _store(forecast, np.arange(len(held_out)), along_descent, along_update, self.optimizer.learning_rate)
        forecast.others[:] = forecast.changes["batch-sgd"]
        return forecast

    def _alone(self, pairs: Measured, positions: NDArray[np.int64]) -> Floats:
        """s of pairs in batches of their own, [2, pairs]."""
        return np.concatenate(
            [step_shares(self._loss, pairs, pairs.log_probs, [np.array([position])]) for position in positions], axis=1
        )

    def _update(self, descent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loss_gradient = {name: -tensor for name, tensor in descent.items()}
        return optimizer_update(loss_gradient, self._model.parameters, self.optimizer, self._moments)


class _OwnParts:
    """The effect of each pair on itself, from its Gram matrix."""

    def __init__(self, pairs: Measured) -> None:
        norms = np.array([[r.chosen_grad_norm, r.rejected_grad_norm] for r in pairs.records], dtype=float).T
        self._squares = norms**2
        self._inner = np.array([r.inner_product for r in pairs.records], dtype=float)

    def changes(self, positions: NDArray[np.int64], shares: Floats) -> Floats:
        """Changes of both log-probs by the pair's own part of the descent, per unit learning rate, [2, pairs]."""
        squares, inner = self._squares[:, positions], self._inner[positions]
        return np.stack([shares[0] * squares[0] + shares[1] * inner, shares[0] * inner + shares[1] * squares[1]])


def _store(
    forecast: Forecast,
    positions: NDArray[np.int64],
    along_descent: Derivatives,
    along_update: Derivatives,
    rate: float,
) -> None:
    """Store the derivatives of some pairs in a forecast."""
    forecast.changes["batch-sgd"][:, positions] = rate * along_descent.first.numpy()
    forecast.changes["optimizer"][:, positions] = along_update.first.numpy()
    forecast.error[:, positions] = along_update.first_error.numpy()
    # The second order may be as large as its rounding error. Below this rate, the first order certainly dominates.
    second = torch.maximum(along_update.second.abs(), along_update.second_error)
    forecast.valid_learning_rate[:, positions] = rate * (2 * along_update.first.abs() / second).numpy()


@contextmanager
def open_forecast(
    model: str, data: str | Sequence[str], eval_data: str | None, settings: ScanSettings, step: ForecastSettings
) -> Iterator[Forecaster]:
    """Open the data, the checkpoint and the optimizer's state. Measures nothing yet.

    Raises:
        DataError, ModelError, UsageError: see `opening.open_scan` and `read_step`.
    """
    if settings.dtype == "bfloat16":
        raise UsageError(
            "--dtype bfloat16", "float32 or float64; bfloat16 weights lose a small step to rounding", "remove --dtype"
        )
    # Checked before the checkpoint is loaded, to report a wrong number or name at once.
    refuse_rate(step.learning_rate)
    refuse_schedule(step, step.horizon)
    refuse_probe_settings(step.probe, step.probe_generate)
    # The held-out data share the reading settings, but not the split, config and revision.
    reading = replace(settings.reading, split=step.eval_split, config_name=None, revision=None)
    source = None if eval_data is None else open_source(eval_data, reading)
    probe_file = None
    if step.probe is not None:
        limit = settings.reading.max_row_bytes
        probe_file = read_probe_answers(str(step.probe), limit, with_own=step.probe_generate is not None)
    with open_local_scan(model, data, settings) as (scan, loaded), Scorer(loaded.checkpoint.model) as scorer:
        held_out = None
        if source is not None:
            pairs = pair_reader(source, reading)
            whole = replace(settings, limit=None, sample=None)
            held_out = RowReader(source, pairs, loaded.preparation(pairs, whole), whole)
        policy = Policy(scorer, loaded.parameters, scan.plan.batch_tokens)
        yield Forecaster(scan, loaded, policy, held_out, probe_file, step, settings)
