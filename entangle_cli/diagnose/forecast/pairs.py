"""The pairs of a forecast, measured before the step. Pairs with an undefined loss are set aside with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from entangle_cli.analysis.losses.loss import Coefficients, LossPoint
from entangle_cli.analysis.losses.table import loss_coefficients
from entangle_cli.diagnose.forecast.policy import Policy
from entangle_cli.diagnose.forecast.result import Measured
from entangle_cli.diagnose.scan.measurer import Measurer
from entangle_cli.diagnose.scan.row_reader import RowReader
from entangle_cli.diagnose.scan.row_records import PreparedRow, skipped_record
from entangle_cli.diagnose.scan.scan import Scan
from entangle_cli.diagnose.views.movements import LOSS_UNDEFINED
from entangle_cli.errors import DataError
from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import PairRecord, Status
from entangle_cli.records.settings import ForecastSettings, LossSettings

Positions: TypeAlias = NDArray[np.int64]

Passes: TypeAlias = Sequence[NDArray[np.int64]]
"""Positions of the pairs of one step, one array per forward pass."""

LARGEST_COEFFICIENT = float(np.finfo(np.float32).max) / 1e6
"""Larger coefficients would take weighted gradients out of the range of float32."""


def training_pairs(
    scan: Scan, measurer: Measurer, loss: LossSettings, advance: Callable[[int], None]
) -> tuple[Measured, list[PairRecord]]:
    """The selected pairs of a scan for which the loss is defined, and the records of the other rows.

    A pair with vanishing gradients still belongs to its batch.

    Args:
        advance: called with the number of newly measured rows.
    """
    rows: dict[tuple[int, int], tuple[PreparedRow, PairRecord]] = {}
    unused = []
    for window in scan.reader.windows():
        for batch in scan.batches(window):
            for row, record in zip(batch, measurer.measure(batch).pairs, strict=True):
                rows[row.pair.index, row.pair.pair_in_row or 0] = (row, record)
        unused += [skipped_record(row) for row in window if not isinstance(row, PreparedRow)]
        advance(len(window))
    in_order = [rows[key] for key in sorted(rows)]
    unused += [record for _, record in in_order if record.inner_product is None]
    measured = _measured([(row, record) for row, record in in_order if record.inner_product is not None])
    is_defined = _is_defined(loss, measured)
    unused += [
        replace(
            measured.records[position],
            status=Status.UNDEFINED.value,
            reason=LOSS_UNDEFINED,
            detail="the loss has no finite coefficients here; the reference log-probs are too far from the model's",
        )
        for position in np.flatnonzero(~is_defined)
    ]
    return measured.at(np.flatnonzero(is_defined)), sorted(unused, key=lambda record: record.index)


def held_out_pairs(reader: RowReader, policy: Policy) -> tuple[Measured, list[PairRecord]]:
    """All scored pairs of a held-out data set with their log-probs, and the records of the other rows."""
    rows: list[PreparedRow] = []
    unused = []
    for window in reader.windows():
        rows += [row for row in window if isinstance(row, PreparedRow)]
        unused += [skipped_record(row) for row in window if not isinstance(row, PreparedRow)]
    if not rows:
        first = unused[0]
        raise DataError(
            f"--eval-data: none of {len(unused):,} rows can be scored; row {first.index}: {first.detail}",
            "pairs in the same form as the training data",
            "use other held-out data, or remove --eval-data",
        )
    chosen, rejected = policy.log_probs([row.tokens.pair for row in rows]).tolist()
    records = [
        PairRecord(
            row.pair.index,
            row.pair.pair_id,
            Status.OK.value,
            line=row.pair.line,
            file=row.pair.file,
            pair_in_row=row.pair.pair_in_row,
            chosen_log_prob=chosen[position],
            rejected_log_prob=rejected[position],
            chosen_tokens=row.tokens.pair.chosen.num_scored,
            rejected_tokens=row.tokens.pair.rejected.num_scored,
        )
        for position, row in enumerate(rows)
    ]
    return _measured(list(zip(rows, records, strict=True))), unused


def _measured(rows: Sequence[tuple[PreparedRow, PairRecord]]) -> Measured:
    records = [record for _, record in rows]
    log_probs = _columns(records, "chosen_log_prob", "rejected_log_prob")
    references = _columns(records, "chosen_ref_log_prob", "rejected_ref_log_prob")
    # Without reference log-probs, the checkpoint is its own reference, as at the first step of training.
    references = np.where(np.isnan(references), log_probs, references)
    lengths = _columns(records, "chosen_tokens", "rejected_tokens")
    return Measured(records, [row.tokens.pair for row, _ in rows], log_probs, references, lengths)


def _columns(records: Sequence[PairRecord], chosen: str, rejected: str) -> Floats:
    values = [[getattr(record, name) for record in records] for name in (chosen, rejected)]
    return np.array(values, dtype=np.float64).reshape(2, -1)


def _is_defined(loss: LossSettings, pairs: Measured) -> NDArray[np.bool_]:
    """Whether a loss has usable coefficients for each pair, [pairs]."""
    coefficients = np.stack(batch_coefficients(loss, pairs, pairs.log_probs, np.arange(len(pairs))))
    with np.errstate(invalid="ignore"):
        within: NDArray[np.bool_] = np.abs(coefficients) <= LARGEST_COEFFICIENT
    both: NDArray[np.bool_] = within[0] & within[1]
    return both


def batch_coefficients(loss: LossSettings, pairs: Measured, log_probs: Floats, positions: Positions) -> Coefficients:
    """Loss coefficients for the pairs of one batch, computed from given log-probs [2, pairs]."""
    point = LossPoint(*log_probs[:, positions], *pairs.references[:, positions], *pairs.lengths[:, positions])
    return loss_coefficients(loss, point)


def epoch_steps(num_pairs: int, settings: ForecastSettings, seed: int) -> list[Passes]:
    """The steps of one epoch, in the order of training."""
    if settings.batch_size is None:
        return [[np.arange(num_pairs)]]
    order = np.random.default_rng(seed).permutation(num_pairs)
    passes = [order[start : start + settings.batch_size] for start in range(0, num_pairs, settings.batch_size)]
    return [passes[start : start + settings.accumulate] for start in range(0, len(passes), settings.accumulate)]


def step_shares(loss: LossSettings, pairs: Measured, log_probs: Floats, passes: Passes) -> Floats:
    """s of every pair of a step, [2, pairs]: mean over the pairs of a pass, then mean over the passes."""
    parts = []
    for positions in passes:
        coefficients = batch_coefficients(loss, pairs, log_probs, positions)
        weight = 1.0 / (len(positions) * len(passes))
        parts.append(np.stack([weight * coefficients.chosen, -weight * coefficients.rejected]))
    shares = np.concatenate(parts, axis=1)
    # All shares are finite at the checkpoint, see `training_pairs`. Pairs that leave the range in training get 0.
    return np.where(np.isfinite(shares), shares, 0.0)
