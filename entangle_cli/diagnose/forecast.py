"""The movement of every pair under one step of the user's optimizer on a whole batch, and the real step beside it.

With s = (d_c, -d_r) / n over the n pairs of a batch, -grad loss = sum_i s_i g_i =: D, and to first order a log-prob
with gradient g changes by <g, u> under an update u: lr D for plain gradient descent on the batch (`batch-sgd`), the
optimizer's own update for `optimizer`. `pair-sgd` keeps the pair's own part of D only, with the whole step for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from entangle_cli.analysis.losses.loss import LossPoint
from entangle_cli.analysis.losses.table import loss_coefficients
from entangle_cli.data.rows import open_source
from entangle_cli.diagnose.forecast_result import Forecast, ForecastResult, Measured, StepCheck, empty_forecast
from entangle_cli.diagnose.optimizer_step import read_step
from entangle_cli.diagnose.row_reader import RowReader
from entangle_cli.diagnose.row_records import PreparedRow, skipped_record
from entangle_cli.diagnose.scan import Scan, open_scan
from entangle_cli.engine.batch import plan_batches
from entangle_cli.engine.displacement import RELATIVE_STEPS, Derivatives, Weights
from entangle_cli.engine.scorer import Scorer
from entangle_cli.engine.update import (
    clip_factor,
    inner_product,
    make_optimizer,
    norm,
    optimizer_update,
)
from entangle_cli.errors import NothingToJudgeError, UsageError
from entangle_cli.records import (
    ForecastSettings,
    LossSettings,
    PairRecord,
    ScanSettings,
    TokenizedPair,
)

Floats: TypeAlias = NDArray[np.float64]

VERIFIED_FACTORS = (0.1, 1.0, 10.0)
"""Learning rates of the real steps, relative to the user's."""

CURVATURE_STEP = 10.0
"""Step of a second difference beside that of a first one: its rounding grows with the step's square."""

GOOD_IDENTITY = 2e-4
"""Error of a check below which no other step of a difference is tried."""


@dataclass(frozen=True, slots=True)
class _Checked:
    """Derivatives, and how exact they are."""

    derivatives: Derivatives
    relative_step: float
    identity_error: float


@dataclass(frozen=True, slots=True)
class _OnMargins:
    values: Floats
    source: _Checked


class Forecaster:
    """A forecast that is ready to start; made by `open_forecast`.

    Attributes:
        scan: the measurement that it starts from.
        optimizer: the step, with the settings of the state where the user gave none.
    """

    def __init__(
        self,
        scan: Scan,
        scorer: Scorer,
        held_out: RowReader | None,
        settings: ForecastSettings,
        loss: LossSettings,
        seed: int,
    ) -> None:
        self.scan = scan
        self._scorer = scorer
        self._held_out = held_out
        self._settings = settings
        self._loss = loss
        self._seed = seed
        self.optimizer, self._moments = read_step(settings, scan.checkpoint.model, scan.parameters)
        self._weights = Weights(scan.parameters)

    def run(self, advance: Callable[[int], None]) -> ForecastResult:
        """Measure every pair, forecast the steps, and take them for real where the settings ask for it.

        Args:
            advance: told how many rows were measured.
        Raises:
            NothingToJudgeError: no pair can be measured.
        """
        pairs, skipped = self._measured(self.scan.reader, advance)
        if not pairs:
            raise NothingToJudgeError(
                f"none of {len(skipped):,} rows can be measured",
                "at least one pair that fits the model and --max-length",
                "see the reasons with entangle scan",
            )
        held_out = None if self._held_out is None else self._measured(self._held_out, lambda _: None)[0]
        steps = self._steps(len(pairs))
        forecast, of_held_out, checks = self._forecast(pairs, held_out, steps)
        result = ForecastResult(
            self.optimizer,
            max((moment.step for moment in self._moments.values()), default=None),
            forecast,
            of_held_out,
            checks,
            skipped,
        )
        if self._settings.verify:
            for factor in VERIFIED_FACTORS:
                rate = self.optimizer.learning_rate * factor
                result.real_steps[rate] = self._real_step(pairs, steps, rate)
        if self._settings.steps:
            self._train(pairs, held_out, steps, result)
        return result

    def _measured(self, reader: RowReader, advance: Callable[[int], None]) -> tuple[Measured, list[PairRecord]]:
        rows: dict[int, tuple[PreparedRow, PairRecord]] = {}
        skipped = []
        for window in reader.windows():
            batches = self.scan.batches(window)
            for batch in batches:
                for row, record in zip(batch, self.scan.measurer.measure(batch), strict=True):
                    rows[row.pair.index] = (row, record)
            skipped += [skipped_record(row) for row in window if not isinstance(row, PreparedRow)]
            advance(len(window))
        # A pair that the model is sure of has no gradient, and still takes part in its batch.
        found = [rows[index] for index in sorted(rows) if rows[index][1].inner_product is not None]
        records = [record for _, record in found]
        log_probs = np.array(
            [[r.chosen_log_prob for r in records], [r.rejected_log_prob for r in records]], dtype=float
        )
        return Measured(records, [row.tokens.pair for row, _ in found], log_probs), skipped

    def _steps(self, num_pairs: int) -> list[list[NDArray[np.int64]]]:
        """Places of the pairs by step and by forward pass, in the order of training."""
        if self._settings.batch_size is None:
            return [[np.arange(num_pairs)]]
        order = np.random.default_rng(self._seed).permutation(num_pairs)
        size = self._settings.batch_size
        passes = [order[start : start + size] for start in range(0, num_pairs, size)]
        every = self._settings.accumulate
        return [passes[start : start + every] for start in range(0, len(passes), every)]

    def _forecast(
        self, pairs: Measured, held_out: Measured | None, steps: Sequence[Sequence[NDArray[np.int64]]]
    ) -> tuple[Forecast, Forecast | None, list[StepCheck]]:
        forecast = empty_forecast(pairs)
        of_held_out = None if held_out is None else empty_forecast(held_out)
        own, rate = _OwnParts(pairs), self.optimizer.learning_rate
        checks = []
        for number, passes in enumerate(steps):
            places = np.concatenate(passes)
            shares = self._shares(pairs, pairs.log_probs, passes)
            tokens = [pairs.tokens[place] for place in places]
            descent = self._gradient(tokens, shares)
            update = self._update(descent)
            before = pairs.log_probs[:, places]
            along_descent = self._checked_derivatives(tokens, before, descent, shares, descent)
            along_update = self._checked_derivatives(tokens, before, update, shares, descent)
            forecast.batch[places] = number
            # Alone, a pair has the whole step for itself: its loss is no n-th of a mean.
            alone = self._shares(pairs, pairs.log_probs, [np.array([place]) for place in places]) * len(places)
            own_part = rate * own.changes(places, shares)
            forecast.changes["pair-sgd"][:, places] = rate * own.changes(places, alone)
            curvature = self._derivatives(tokens, before, update, CURVATURE_STEP * along_update.relative_step)
            _take(forecast, places, along_descent.derivatives, along_update.derivatives, curvature, rate)
            forecast.others[:, places] = forecast.changes["batch-sgd"][:, places] - own_part
            on_margins = self._on_margins(tokens, before, shares, descent)
            forecast.influence[places] = rate * on_margins.values - (own_part[0] - own_part[1])
            checks.append(
                StepCheck(
                    max(found.identity_error for found in (along_descent, along_update, on_margins.source)),
                    norm(descent),
                    clip_factor(descent, self.optimizer.max_grad_norm),
                )
            )
            if number == 0 and held_out is not None and of_held_out is not None:
                everywhere = np.arange(len(held_out))
                _take(
                    of_held_out,
                    everywhere,
                    self._derivatives(held_out.tokens, held_out.log_probs, descent, along_descent.relative_step),
                    self._derivatives(held_out.tokens, held_out.log_probs, update, along_update.relative_step),
                    self._derivatives(
                        held_out.tokens, held_out.log_probs, update, CURVATURE_STEP * along_update.relative_step
                    ),
                    rate,
                )
                of_held_out.others[:] = of_held_out.changes["batch-sgd"]
        return forecast, of_held_out, checks

    def _shares(self, pairs: Measured, log_probs: Floats, passes: Sequence[NDArray[np.int64]]) -> Floats:
        """s of every pair of a step, [2, pairs]: the mean over a pass, averaged over the passes of a step."""
        parts = []
        for places in passes:
            coefficients = loss_coefficients(self._loss, _point(pairs, log_probs, places))
            weight = 1.0 / (len(places) * len(passes))
            parts.append(np.stack([weight * coefficients.chosen, -weight * coefficients.rejected]))
        shares = np.concatenate(parts, axis=1)
        return np.where(np.isfinite(shares), shares, 0.0)

    def _gradient(self, tokens: Sequence[TokenizedPair], weights: Floats) -> dict[str, Tensor]:
        """Sum of weights times gradients."""
        by_pair = torch.from_numpy(weights)
        batches = (([tokens[place] for place in batch], by_pair[:, batch]) for batch in self._batches(tokens))
        return self._scorer.weighted_gradient(batches, self.scan.parameters)

    def _update(self, descent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loss_gradient = {name: -tensor for name, tensor in descent.items()}
        return optimizer_update(loss_gradient, self.scan.parameters, self.optimizer, self._moments)

    def _derivatives(
        self, tokens: Sequence[TokenizedPair], before: Floats, direction: Mapping[str, Tensor], relative_step: float
    ) -> Derivatives:
        start = torch.from_numpy(before)
        return self._weights.derivatives(lambda: self._log_probs(tokens), start, direction, relative_step)

    def _checked_derivatives(
        self,
        tokens: Sequence[TokenizedPair],
        before: Floats,
        direction: Mapping[str, Tensor],
        shares: Floats,
        descent: Mapping[str, Tensor],
    ) -> _Checked:
        """Derivatives along a direction u by the step of a difference that serves the model best.

        sum_i s_i <g_i, u> = <D, u>, which is known without differences: the first step that meets it is taken, or
        the one that comes closest.
        """
        exact = inner_product(descent, direction)
        best: _Checked | None = None
        for relative_step in RELATIVE_STEPS[next(iter(self.scan.parameters.values())).dtype]:
            found = self._derivatives(tokens, before, direction, relative_step)
            parts = shares * found.first.numpy()
            # Pairs in conflict cancel in the sum: its rounding is that of its parts.
            size = float(np.abs(parts).sum())
            error = abs(float(parts.sum()) - exact) / size if size else 0.0
            if best is None or error < best.identity_error:
                best = _Checked(found, relative_step, error)
            if best.identity_error <= GOOD_IDENTITY:
                break
        assert best is not None
        return best

    def _log_probs(self, tokens: Sequence[TokenizedPair]) -> Tensor:
        found = torch.empty(2, len(tokens), dtype=torch.float64)
        for batch in self._batches(tokens):
            found[:, batch] = self._scorer.log_probs([tokens[place] for place in batch])
        return found

    def _batches(self, tokens: Sequence[TokenizedPair]) -> list[list[int]]:
        return plan_batches(tokens, self.scan.plan.batch_tokens)

    def _on_margins(
        self, tokens: Sequence[TokenizedPair], before: Floats, shares: Floats, descent: Mapping[str, Tensor]
    ) -> _OnMargins:
        """What each pair's part of the descent does to the sum of all margins, a unit of learning rate, [pairs].

        With M = sum_i (g_c^i - g_r^i) that is <M, s_c g_c^j + s_r g_r^j>: column sums of the batch's Gram, by
        derivatives along one direction.
        """
        ones = np.ones(len(tokens))
        margins = self._gradient(tokens, np.stack([ones, -ones]))
        along = self._checked_derivatives(tokens, before, margins, shares, descent)
        return _OnMargins((shares * along.derivatives.first.numpy()).sum(axis=0), along)

    def _real_step(self, pairs: Measured, steps: Sequence[Sequence[NDArray[np.int64]]], rate: float) -> Floats:
        """Measured changes of every pair under the real step of its own batch, each from the checkpoint's weights."""
        changes = np.full((2, len(pairs)), np.nan)
        for passes in steps:
            places = np.concatenate(passes)
            tokens = [pairs.tokens[place] for place in places]
            with self._trained(rate) as take_step:
                take_step(tokens, self._shares(pairs, pairs.log_probs, passes))
                changes[:, places] = self._log_probs(tokens).numpy() - pairs.log_probs[:, places]
        return changes

    def _train(
        self,
        pairs: Measured,
        held_out: Measured | None,
        steps: Sequence[Sequence[NDArray[np.int64]]],
        result: ForecastResult,
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
                    now[:, places] = self._log_probs(tokens).numpy()
                take_step(tokens, self._shares(pairs, now, passes))
                if number + 1 in milestones:
                    result.trajectory[number + 1] = self._log_probs(pairs.tokens).numpy() - pairs.log_probs
                    if held_out is not None:
                        after = self._log_probs(held_out.tokens).numpy()
                        result.trajectory_held_out[number + 1] = after - held_out.log_probs

    @contextmanager
    def _trained(self, rate: float) -> Iterator[Callable[[Sequence[TokenizedPair], Floats], None]]:
        """Real steps of torch's optimizer on the weights inside; the checkpoint's weights afterwards."""
        settings = replace(self.optimizer, learning_rate=rate)
        optimizer = make_optimizer(self.scan.parameters, settings, self._moments)

        def take_step(tokens: Sequence[TokenizedPair], shares: Floats) -> None:
            descent = self._gradient(tokens, shares)
            factor = clip_factor(descent, settings.max_grad_norm)
            for name, parameter in self.scan.parameters.items():
                parameter.grad = -factor * descent[name]
            optimizer.step()
            optimizer.zero_grad()

        try:
            yield take_step
        finally:
            self._weights.restore()


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
    curvature: Derivatives,
    rate: float,
) -> None:
    """Note the derivatives of some pairs."""
    forecast.changes["batch-sgd"][:, places] = rate * along_descent.first.numpy()
    forecast.changes["optimizer"][:, places] = along_update.first.numpy()
    forecast.error[:, places] = along_update.first_error.numpy()
    # A second order within its rounding may be as large as that: the rate below which first order surely leads.
    second = torch.maximum(curvature.second.abs(), curvature.second_error)
    with np.errstate(divide="ignore", invalid="ignore"):
        forecast.valid_learning_rate[:, places] = rate * (2 * along_update.first.abs() / second).numpy()


def _point(pairs: Measured, log_probs: Floats, places: NDArray[np.int64]) -> LossPoint:
    """Where pairs stand with the policy's log-probs as given; without reference log-probs the checkpoint is it."""
    records = [pairs.records[place] for place in places]
    has_reference = any(record.chosen_ref_log_prob is not None for record in pairs.records)
    references = (
        np.array([[r.chosen_ref_log_prob, r.rejected_ref_log_prob] for r in records], dtype=float).T
        if has_reference
        else pairs.log_probs[:, places]
    )
    lengths = np.array([[r.chosen_tokens, r.rejected_tokens] for r in records], dtype=float).T
    return LossPoint(*log_probs[:, places], *references, *lengths)


def _milestones(steps: int) -> set[int]:
    """1, 2, 5, 10, 20, 50, ... and the last."""
    found = {lead * 10**power for power in range(len(str(steps))) for lead in (1, 2, 5)}
    return {number for number in found if number < steps} | {steps}


@contextmanager
def open_forecast(
    model: str, data: Path, eval_data: Path | None, settings: ScanSettings, step: ForecastSettings
) -> Iterator[Forecaster]:
    """Open the data, the checkpoint and the optimizer's state; nothing is measured yet.

    Raises:
        DataError, ModelError, UsageError: see `scan.open_scan`; also for the optimizer's state.
    """
    if settings.dtype == "bfloat16":
        raise UsageError(
            "--dtype bfloat16", "float32 or float64: a small step vanishes in bfloat16 weights", "leave it out"
        )
    with open_scan(model, data, settings) as scan, Scorer(scan.checkpoint.model) as scorer:
        held_out = None
        if eval_data is not None:
            held_out = RowReader(open_source(eval_data, settings.split), scan.checkpoint, settings)
        yield Forecaster(scan, scorer, held_out, step, settings.loss, settings.seed)
