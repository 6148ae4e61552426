"""Rows kept by a filter, against a loop over the rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entangle_cli.analysis.selection import Selection, parse_condition, parse_extreme, selected
from entangle_cli.errors import UsageError

Row = tuple[str, float | None, str | None, bool]
ROWS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ok"),
            st.sampled_from([-0.5, 0.0, 0.5, 0.9]),
            st.sampled_from(["separates", "both_fall"]),
            st.booleans(),
        ),
        st.tuples(st.just("skipped"), st.none(), st.none(), st.just(False)),
    )
)


def columns(rows: list[Row]) -> dict[str, Any]:
    status, cosine, movement, uncertain = zip(*rows, strict=True) if rows else ((), (), (), ())
    measured = [state == "ok" for state in status]
    return {
        "status": np.array(status, dtype=object),
        "cosine": np.array([math.nan if value is None else value for value in cosine], dtype=float),
        "movement": np.array(movement, dtype=object),
        "uncertain": np.array(
            [float(u) if m else math.nan for u, m in zip(uncertain, measured, strict=True)], dtype=float
        ),
    }


@given(ROWS)
def test_conditions_row_by_row(rows: list[Row]) -> None:
    selection = Selection(drop=(parse_condition("movement == both_fall"), parse_condition("cosine >= 0.9")))
    expected = [
        movement != "both_fall" and not (cosine is not None and cosine >= 0.9) for _, cosine, movement, _ in rows
    ]
    assert selected(selection, columns(rows)).tolist() == expected
    keep = Selection(keep=(parse_condition("cosine < 0.5"),), drop_uncertain=True)
    expected = [cosine is not None and cosine < 0.5 and not uncertain for _, cosine, _, uncertain in rows]
    assert selected(keep, columns(rows)).tolist() == expected
    assert selected(Selection(drop_unmeasured=True), columns(rows)).tolist() == [row[0] == "ok" for row in rows]


@given(ROWS, st.sampled_from([0.1, 0.5, 1.0]), st.booleans())
def test_lowest_and_highest_share(rows: list[Row], share: float, lowest: bool) -> None:
    kept = selected(Selection(extreme=parse_extreme("cosine", share, lowest=lowest)), columns(rows))
    inside = [row[1] for row, is_kept in zip(rows, kept, strict=True) if is_kept and row[1] is not None]
    outside = [row[1] for row, is_kept in zip(rows, kept, strict=True) if not is_kept and row[1] is not None]
    assert len(inside) == kept.sum() == math.ceil(share * (len(inside) + len(outside)))
    if inside and outside:
        assert max(inside) <= min(outside) if lowest else min(inside) >= max(outside)


def test_conditions_are_false_for_null() -> None:
    rows: list[Row] = [("skipped", None, None, False)]
    for text in ("cosine != 0", "cosine == 0", "movement != both_fall", "uncertain == false"):
        assert selected(Selection(drop=(parse_condition(text),)), columns(rows)).tolist() == [True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosine", "FIELD OPERATOR VALUE"),
        ("cosin > 0.5", "not a field[\\s\\S]*did you mean cosine"),
        ("cosine > high", "'high'"),
        ("cosine > nan", "a finite number"),
        ("movement > both_fall", "movement with == or !="),
        ("movement == fall", "never 'fall'"),
        ("uncertain == 1", "uncertain == true"),
    ],
)
def test_invalid_conditions_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_condition(text)


@pytest.mark.parametrize(("field", "share"), [("cosine", 0.0), ("cosine", 1.5), ("movement", 0.5), ("cosines", 0.5)])
def test_invalid_extremes_are_refused(field: str, share: float) -> None:
    with pytest.raises(UsageError):
        parse_extreme(field, share, lowest=True)
