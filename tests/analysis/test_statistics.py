"""Statistics against hand-computed examples, and the summary as a document."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entangle_cli.analysis.statistics import (
    SUMMARISED_FIELDS,
    histogram,
    mean,
    quantiles,
    share_interval,
    summarise,
)
from entangle_cli.records.pair import Movement, PairRecord, Status

# float64, a handful of operations.
FLOAT64_RTOL = 1e-12
# A position within 1e-9 of a value is that value; relative to the range of the values.
QUANTILE_ATOL = 2e-9
# Published intervals are printed with four decimals.
PRINTED_ATOL = 5e-5

examples = settings(max_examples=100, deadline=None)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        # Newcombe, Statist. Med. 17 (1998) 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_intervals_as_published(count: int, total: int, low: float, high: float) -> None:
    assert share_interval(count, total) == pytest.approx((low, high), rel=0, abs=PRINTED_ATOL)


@examples
@given(st.integers(1, 10**7).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_solve_the_score_equation(counts: tuple[int, int]) -> None:
    count, total = counts
    interval = share_interval(count, total)
    assert interval is not None
    share = count / total
    assert 0.0 <= interval.low <= share <= interval.high <= 1.0
    for end in interval:
        if 0.0 < end < 1.0:
            # The share is exactly z standard errors from the end; the standard error is that of the end.
            z = abs(share - end) / math.sqrt(end * (1 - end) / total)
            assert z == pytest.approx(1.959963984540054, rel=1e-6)


def test_an_empty_sample_has_no_interval() -> None:
    assert share_interval(0, 0) is None


def test_quantiles_by_hand() -> None:
    values = np.array([4.0, np.nan, 1.0, 3.0, 2.0])
    assert quantiles(values, [0.0, 0.25, 0.5, 0.9, 1.0]) == pytest.approx([1, 1.75, 2.5, 3.7, 4])
    assert quantiles(np.array([7.0]), [0.05, 0.95]) == [7.0, 7.0]
    assert quantiles(np.full(3, 0.9), [0.1, 0.35]) == [0.9, 0.9]
    assert quantiles(np.array([np.nan]), [0.5]) is None
    assert quantiles(np.array([]), [0.5]) is None


@examples
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_quantiles_match_numpy(values: list[float], levels: list[float]) -> None:
    actual = np.array(quantiles(np.array(values), levels))
    atol = QUANTILE_ATOL * np.ptp(values)
    np.testing.assert_allclose(actual, np.quantile(values, levels), rtol=FLOAT64_RTOL, atol=atol)


def test_quantiles_order_infinities() -> None:
    values = np.array([1.0, 2.0, math.inf, math.inf, -math.inf])
    assert quantiles(values, [0.0, 0.25, 0.5, 0.75, 1.0]) == [-math.inf, 1, 2, math.inf, math.inf]
    assert quantiles(values, [0.1, 0.6]) == [-math.inf, math.inf]
    # 0.07 * 100 in float64 is above 7. The eighth value must not be included.
    assert quantiles(np.array([0.0] * 8 + [math.inf] * 93), [0.07]) == [0.0]


def test_mean() -> None:
    assert mean(np.array([1.0, np.nan, 3.0])) == 2.0
    assert math.isnan(mean(np.array([np.nan])))
    assert mean(np.array([1.0, math.inf])) == math.inf


def test_histogram_by_hand() -> None:
    values = np.array([-1.0, -0.95, -0.9, 0.0, 0.05, 0.1, 0.99, 1.0, np.nan, 1.2])
    found = histogram(values, -1.0, 1.0, 20)
    assert found.edges == [-1 + k / 10 if k % 10 == 0 else round(-1 + k / 10, 1) for k in range(21)]
    expected = [0] * 20
    expected[0], expected[1], expected[10], expected[11], expected[19] = 2, 1, 2, 1, 2
    assert found.counts == expected


def columns_of(records: list[PairRecord]) -> dict[str, np.ndarray[Any, Any]]:
    """Columns as returned by the store: floats with NaN, everything else as objects."""
    columns: dict[str, np.ndarray[Any, Any]] = {}
    for name, annotation in PairRecord.__annotations__.items():
        values = [getattr(record, name) for record in records]
        if "float" in annotation:
            columns[name] = np.array([np.nan if v is None else v for v in values], dtype=float)
        else:
            columns[name] = np.array(values, dtype=object)
    return columns


def measured(index: int, movement: str | None, cosine: float, slack: float | None) -> PairRecord:
    return PairRecord(
        index=index,
        pair_id=f"id{index}",
        status="ok",
        movement=movement,
        cosine=cosine,
        slack=slack,
        chosen_delta=float(index),
        uncertain=index == 1,
    )


RECORDS = [
    measured(0, "separates", -1.0, math.inf),
    measured(1, "both_fall", 0.95, -0.5),
    measured(2, "both_fall", 1.0, -1.5),
    measured(3, "both_rise", 0.55, None),
    PairRecord(4, None, "skipped", "tie", cosine=0.3, movement="reversed"),
    PairRecord(5, None, "skipped", "tie"),
    PairRecord(6, "id6", "skipped", "identical"),
    PairRecord(7, "id7", "undefined", "non_finite", cosine=math.nan),
]


def test_summary_by_hand() -> None:
    summary = summarise(columns_of(RECORDS))
    assert summary["rows"] == 8
    assert summary["pairs"] == 4
    assert summary["status"] == {"ok": 4, "skipped": 3, "undefined": 1}
    assert summary["reasons"] == {"tie": 2, "identical": 1, "non_finite": 1}
    assert list(summary["reasons"]) == ["tie", "identical", "non_finite"]
    assert {name: share["count"] for name, share in summary["movements"].items()} == {
        "separates": 1,
        "both_rise": 1,
        "both_fall": 2,
        "reversed": 0,
        "still": 0,
    }
    both_fall = summary["movements"]["both_fall"]
    assert both_fall["rate"] == 0.5
    assert both_fall["interval"] == list(share_interval(2, 4) or ())
    assert summary["without_movement"] == 0
    assert summary["uncertain"]["rate"] == 0.25

    assert list(summary["fields"]) == list(SUMMARISED_FIELDS)
    cosine = summary["fields"]["cosine"]
    assert cosine["count"] == 4
    assert cosine["mean"] == pytest.approx(0.375)
    assert cosine["min"] == -1.0
    assert cosine["max"] == 1.0
    assert cosine["p50"] == pytest.approx(0.75)
    assert cosine["p25"] == pytest.approx(0.1625)
    # One slack is +inf and one is null.
    slack = summary["fields"]["slack"]
    assert slack["count"] == 3
    assert slack["min"] == -1.5
    assert slack["p50"] == -0.5
    assert slack["p25"] == -1.0
    assert slack["mean"] is None
    assert slack["max"] is None
    assert slack["p95"] is None
    assert set(summary["fields"]["norm_ratio"].values()) == {0, None}

    counts = summary["cosine_histogram"]["counts"]
    assert [k for k, count in enumerate(counts) if count] == [0, 15, 19]
    assert counts[19] == 2


def test_a_pair_without_movement_is_counted() -> None:
    summary = summarise(columns_of([*RECORDS, measured(8, None, 0.0, None)]))
    assert summary["without_movement"] == 1
    assert summary["movements"]["both_fall"]["rate"] == 2 / 5


@pytest.mark.parametrize("records", [[], RECORDS[4:], RECORDS], ids=["no row", "no pair", "all"])
def test_the_summary_is_strict_json(records: list[PairRecord]) -> None:
    text = json.dumps(summarise(columns_of(records)), allow_nan=False)
    assert json.loads(text)["pairs"] == sum(record.status == "ok" for record in records)


def test_nothing_measured_gives_null_and_not_zero() -> None:
    summary = summarise(columns_of(RECORDS[4:]))
    assert summary["movements"]["both_fall"] == {"count": 0, "rate": None, "interval": None}
    assert summary["uncertain"]["rate"] is None
    assert set(summary["fields"]["cosine"].values()) == {0, None}


def test_column_types_do_not_matter() -> None:
    objects = columns_of(RECORDS)
    strings = dict(objects)
    strings["status"] = np.array([record.status for record in RECORDS])
    strings["movement"] = np.array([record.movement or "" for record in RECORDS])
    strings["reason"] = np.array([record.reason or "" for record in RECORDS])
    strings["uncertain"] = np.array([bool(record.uncertain) for record in RECORDS])
    strings["cosine"] = np.array([record.cosine for record in RECORDS], dtype=object)
    assert summarise(strings) == summarise(objects)
    enums = dict(objects)
    enums["status"] = np.array([Status(record.status) for record in RECORDS], dtype=object)
    enums["movement"] = np.array([record.movement and Movement(record.movement) for record in RECORDS], dtype=object)
    assert summarise(enums) == summarise(objects)


def test_a_missing_column_is_null_in_every_row() -> None:
    summary = summarise({"status": np.array(["ok", "ok"], dtype=object)})
    assert summary["without_movement"] == 2
    assert summary["fields"]["slack"]["p50"] is None
