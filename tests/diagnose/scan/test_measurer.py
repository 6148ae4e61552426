"""What a measurer does when memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from entangle_cli.data.pairs import PreferencePair
from entangle_cli.data.tokenize import TokenizedRow
from entangle_cli.diagnose.scan.measurer import Measurer, Started
from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.errors import UnfinishedError
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse
from entangle_cli.records.pair import RecordBatch
from entangle_cli.records.settings import ScanSettings


def prepared(index: int, num_positions: int) -> PreparedRow:
    response = TokenizedResponse(tuple(range(num_positions + 1)), first_scored=1)
    pair = PreferencePair(index, None, "prompt, chosen, rejected", "id", "", "", "")
    return PreparedRow(pair, TokenizedRow(TokenizedPair(response, response), 1, boundary_moved=False))


class SmallDevice(Measurer):
    """A device with memory for a number of padded tokens, twice as many with recomputed activations."""

    def __init__(self, room: int) -> None:
        engine: Any = None
        super().__init__(engine, None, ScanSettings())
        self.room = room
        self.failed: list[int] = []
        self.measured: list[int] = []

    def _start_at_once(self, rows: Sequence[PreparedRow], *, recompute: bool) -> Started:
        tokens = 2 * len(rows) * max(len(row.tokens.pair.chosen.ids) - 1 for row in rows)
        if tokens > self.room * (1 + recompute):
            self.failed.append(tokens)
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.measured += [row.pair.index for row in rows]
        return lambda: RecordBatch([], [])


def test_a_size_that_ran_out_of_memory_is_not_tried_again() -> None:
    device = SmallDevice(room=100)
    window = [prepared(index, 10) for index in range(16)]
    device.measure(window)
    assert device.failed == [320, 160]
    device.measure(window)
    assert device.failed == [320, 160]
    assert device.measured == [*range(16), *range(16)]


def test_a_smaller_batch_is_still_tried_whole() -> None:
    device = SmallDevice(room=100)
    device.measure([prepared(index, 10) for index in range(8)])
    failed = list(device.failed)
    device.measure([prepared(index, 10) for index in range(5)])
    assert device.failed == failed
    assert device.measured == [*range(8), *range(5)]


def test_a_long_pair_is_measured_with_recomputed_activations_at_once_the_second_time() -> None:
    device = SmallDevice(room=100)
    for index in range(2):
        device.measure([prepared(index, 80)])
    assert device.failed == [160]
    assert device.measured == [0, 1]


def test_a_pair_that_never_fits_is_named() -> None:
    with pytest.raises(UnfinishedError, match="out of memory on row 7 alone"):
        SmallDevice(room=100).measure([prepared(7, 101)])


def test_a_pair_that_did_not_fit_does_not_stop_others_of_its_length() -> None:
    """Another program may have held the memory for a moment."""
    device = SmallDevice(room=100)
    with pytest.raises(UnfinishedError, match="row 7"):
        device.measure([prepared(7, 101)])
    device.room = 1000
    device.measure([prepared(8, 101)])
    assert device.measured == [8]


class Traced(Measurer):
    """Notes when batches start and when their records are formed."""

    def __init__(self, *, runs_ahead: bool) -> None:
        engine: Any = SimpleNamespace(runs_ahead=runs_ahead)
        super().__init__(engine, None, ScanSettings())
        self.events: list[str] = []

    def _start_at_once(self, rows: Sequence[PreparedRow], *, recompute: bool) -> Started:
        index = rows[0].pair.index
        self.events.append(f"start {index}")

        def formed() -> RecordBatch:
            self.events.append(f"form {index}")
            return RecordBatch([], [])

        return formed


@pytest.mark.parametrize(
    ("runs_ahead", "events"),
    [
        (True, ["start 0", "start 1", "form 0", "start 2", "form 1", "form 2"]),
        (False, ["start 0", "form 0", "start 1", "form 1", "start 2", "form 2"]),
    ],
)
def test_a_gpu_computes_while_records_are_formed(runs_ahead: bool, events: list[str]) -> None:
    measurer = Traced(runs_ahead=runs_ahead)
    assert len(list(measurer.records([[prepared(index, 10)] for index in range(3)]))) == 3
    assert measurer.events == events
