"""Movements that were measured, not predicted."""

from __future__ import annotations

import numpy as np
import pytest

from entangle_cli.analysis.observed_movement import log_probs_of, observed_metrics, observed_rates
from entangle_cli.records.pair import PairRecord


def record(index: int, chosen: float | None, rejected: float | None, cosine: float | None = 0.5) -> PairRecord:
    return PairRecord(
        index, f"{index}", "ok", chosen_log_prob=chosen, rejected_log_prob=rejected, cosine=cosine, chosen_grad_norm=2.0
    )


def test_metrics_by_hand() -> None:
    records = [record(0, -9.0, -21.0, 0.9), record(1, -12.0, -22.0, 0.1), record(2, -8.0, -18.0, 0.2)]
    start = np.array([[-10.0, -10.0, -10.0], [-20.0, -20.0, -20.0]])
    found = observed_metrics(records, start)
    # Changes: +1/-1, -2/-2, +2/+2.
    assert found["chosen_change_mean"] == pytest.approx(1 / 3)
    assert found["rejected_change_mean"] == pytest.approx(-1 / 3)
    assert found["margin_change_mean"] == pytest.approx(2 / 3)
    assert found["chosen_falls_rate"] == found["rejected_rises_rate"] == pytest.approx(1 / 3)
    assert found["separates_rate"] == found["both_fall_rate"] == found["both_rise_rate"] == pytest.approx(1 / 3)
    assert found["cosine_mean"] == pytest.approx(0.4)
    assert found["cosine_median"] == 0.2
    assert found["chosen_grad_norm_median"] == 2.0
    assert "norm_ratio_median" not in found


def test_undefined_pairs_do_not_count() -> None:
    records = [record(0, -9.0, -21.0), record(1, None, -5.0, None)]
    start = np.array([[-10.0, -10.0], [-20.0, -20.0]])
    found = observed_metrics(records, start)
    assert found["chosen_change_mean"] == 1.0
    assert found["separates_rate"] == 1.0
    assert found["cosine_mean"] == 0.5
    assert np.isnan(log_probs_of(records)[0, 1])


def test_nothing_moved_at_the_start() -> None:
    assert observed_rates(np.zeros((2, 3))) == {}
    assert observed_rates(np.empty((2, 0))) == {}
