"""Dealing: every row is measured once or given up, and a row that kills workers cannot take others with it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.diagnose.workers.dealer import BATCHES_PER_WORKER, FRUITLESS_DEATHS, FRUITLESS_FAILURES, Batch, Dealer
from entangle_cli.errors import UnfinishedError
from tests.diagnose.scan.test_measurer import prepared

ROWS = [prepared(index, 3) for index in range(64)]


def indices(batch: Batch) -> list[int]:
    return [row.pair.index for row in batch.rows]


class SimulatedWorkers:
    """Workers that die when they measure a batch with a deadly row. Each measures the first batch that it holds."""

    def __init__(self, num_workers: int, deadly: set[int], seed: int) -> None:
        self.dealer = Dealer(num_workers)
        self.held: list[list[Batch]] = [[] for _ in range(num_workers)]
        self.measured: list[int] = []
        self.deaths: Counter[int] = Counter()
        """Deaths by row, of all rows that the worker held."""
        self.most_held = 0
        self._deadly = deadly
        self._chance = random.Random(seed)

    def measure(self, batches: Sequence[Sequence[PreparedRow]]) -> None:
        new = iter(batches)
        while self._deal(new) or any(self.held):
            held = self._chance.choice([each for each in self.held if each])
            if self._deadly & set(indices(held[0])):
                self.deaths.update(index for batch in held for index in indices(batch))
                self.dealer.died([*held], "killed")
                held.clear()
            else:
                self.measured += indices(held.pop(0))
                self.dealer.succeeded()

    def _deal(self, new: Iterator[Sequence[PreparedRow]]) -> bool:
        is_dealt = False
        for held in self._chance.sample(self.held, len(self.held)):
            if (batch := self.dealer.next_batch(held, new)) is not None:
                held.append(batch)
                is_dealt = True
        self.most_held = max(self.most_held, *map(len, self.held))
        return is_dealt

    @property
    def lost(self) -> list[int]:
        return [row.pair.index for row in self.dealer.lost]


@settings(max_examples=200, deadline=None)
@given(
    num_workers=st.integers(1, 5),
    deadly=st.sets(st.integers(0, 63), max_size=4),
    size=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_every_row_is_measured_once_unless_it_is_deadly(
    num_workers: int, deadly: set[int], size: int, seed: int
) -> None:
    workers = SimulatedWorkers(num_workers, deadly, seed)
    workers.measure([ROWS[start : start + size] for start in range(0, 64, size)])
    assert sorted(workers.lost) == sorted(deadly)
    assert sorted(workers.measured) == sorted(set(range(64)) - deadly)
    # The first measurement and at most three again.
    assert all(workers.deaths[index] == 4 for index in deadly)
    assert max(workers.deaths.values(), default=0) <= 4
    assert workers.most_held <= BATCHES_PER_WORKER


def test_a_batch_is_measured_again_as_a_whole_once() -> None:
    dealer = Dealer(2)
    new = iter([ROWS[:3], ROWS[3:6], ROWS[6:9]])
    held = [batch for batch in (dealer.next_batch([], new), dealer.next_batch([Batch(ROWS[:3])], new)) if batch]
    dealer.died(held, "killed")
    # An idle worker gets one suspect and nothing beside it. A busy one waits.
    first = dealer.next_batch([], new)
    assert first is not None
    assert indices(first) == [0, 1, 2]
    assert dealer.next_batch([first], new) is None
    dealer.died([first], "killed")
    rest = [dealer.next_batch([], new) for _ in range(5)]
    assert [indices(batch) for batch in rest if batch] == [[3, 4, 5], [0], [1], [2], [6, 7, 8]]


FULL = UnfinishedError("out of memory on row 1 alone", "memory", "use less")


def test_a_row_that_fails_alone_is_tried_once_more() -> None:
    dealer = Dealer(1)
    new = iter([ROWS[:2]])
    whole = dealer.next_batch([], new)
    assert whole is not None
    dealer.failed(whole, FULL)
    alone = [dealer.next_batch([], new) for _ in range(2)]
    assert [indices(batch) for batch in alone if batch] == [[0], [1]]
    assert alone[1] is not None
    dealer.failed(alone[1], FULL)
    assert not dealer.lost
    again = dealer.next_batch([], new)
    assert again is not None
    assert indices(again) == [1]
    # It has a worker to itself.
    assert dealer.next_batch([again], iter([ROWS[2:4]])) is None
    dealer.failed(again, FULL)
    assert [(row.pair.index, row.reason) for row in dealer.lost] == [(1, "out of memory on row 1 alone")]


def test_many_failures_without_any_result_end_the_scan() -> None:
    dealer = Dealer(2)
    for _ in range(FRUITLESS_FAILURES):
        dealer.failed(Batch(ROWS[:1], has_failed=True), FULL)
    with pytest.raises(UnfinishedError, match="out of memory on row 1 alone"):
        dealer.failed(Batch(ROWS[:1], has_failed=True), FULL)
    dealer.succeeded()
    dealer.failed(Batch(ROWS[:1], has_failed=True), FULL)


def test_batches_that_were_not_begun_come_back_without_blame() -> None:
    dealer = Dealer(1)
    dealer.take_back([Batch(ROWS[:2]), Batch(ROWS[2:4])])
    assert [dealer.next_batch([], iter(())) for _ in range(2)] == [Batch(ROWS[:2]), Batch(ROWS[2:4])]


def test_deaths_without_any_result_end_the_scan() -> None:
    dealer = Dealer(2)
    for _ in range(FRUITLESS_DEATHS + 4):
        dealer.died([], "no CUDA device")
    with pytest.raises(UnfinishedError, match="died 21 times and measured nothing in between; the last one: no CUDA"):
        dealer.died([], "no CUDA device")


def test_a_result_starts_the_count_anew() -> None:
    dealer = Dealer(2)
    for _ in range(3):
        for _ in range(FRUITLESS_DEATHS + 4):
            dealer.died([], "killed")
        dealer.succeeded()
