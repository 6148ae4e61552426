"""Drawing probe pairs from objects."""

from __future__ import annotations

import datasets
import pytest

from entangle_cli.data.probe_rows import ProbeRows, draw
from entangle_cli.errors import DataError

ROWS = [{"prompt": f"{number}", "chosen": "a", "rejected": "b"} for number in range(30)]
IDS = [{**row, "prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3], "ref_chosen_logps": -1.0} for row in ROWS]


def test_a_sequence_and_a_data_set_are_drawn_from_alike() -> None:
    one, other = draw("train", ROWS, 5, 3), draw("train", datasets.Dataset.from_list(ROWS), 5, 3)
    assert one == other
    assert (len(one.rows), one.num_rows) == (5, 30)
    assert list(one.rows) == sorted(one.rows)
    assert all(row["prompt"] == str(index) for index, row in one.rows.items())
    assert draw("train", ROWS, 5, 4) != one
    assert len(draw("train", ROWS, 50, 0).rows) == 30


def test_a_stream_gives_its_first_rows() -> None:
    drawn = draw("train", iter(ROWS), 4, 0)
    assert list(drawn.rows) == [0, 1, 2, 3]
    assert drawn.num_rows == 4


def test_tokens_take_precedence_over_the_texts_beside_them() -> None:
    assert set(draw("train", IDS, 1, 0).rows.popitem()[1]) == {  # type: ignore[attr-defined]
        *("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps")
    }


def test_sets_are_numbered_as_if_joined() -> None:
    source = ProbeRows([draw("train", ROWS, 2, 0), draw("held-out", ROWS[:10], 2, 0)])
    assert [(row.index >= 30, row.file) for row in source.rows()] == [(False, "train")] * 2 + [(True, "held-out")] * 2
    assert source.indices == [row.index for row in source.rows()]
    assert source.num_rows == 40
    again = ProbeRows([draw("train", ROWS, 2, 0), draw("held-out", ROWS[:10], 2, 0)])
    other = ProbeRows([draw("train", ROWS, 2, 1), draw("held-out", ROWS[:10], 2, 0)])
    assert source.identity == again.identity != other.identity


@pytest.mark.parametrize("rows", [[], iter(()), 3, "abc", {"a": 1}, None])
def test_what_holds_no_rows_is_refused(rows: object) -> None:
    with pytest.raises(DataError, match="train pairs"):
        draw("train", rows, 2, 0)
