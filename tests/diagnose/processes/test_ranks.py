"""Processes that share a scan: every batch is measured once, records arrive unchanged, rank 0 raises all failures."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from entangle_cli.diagnose.processes import mailbox
from entangle_cli.diagnose.processes.launch import launched, meet
from entangle_cli.diagnose.processes.mailbox import LostProcessError, Mailbox
from entangle_cli.diagnose.processes.ranks import DistributedRank, MainRank, Ranks, WorkerRank
from entangle_cli.errors import DataError, EntangleError, UnfinishedError, UsageError
from entangle_cli.records.measurement import GroupProducts
from entangle_cli.records.pair import LayerRecord, PairRecord, RecordBatch

BATCH = RecordBatch(
    [
        PairRecord(
            3, "id", "ok", detail="a \udcff line\nand “more”", chosen_log_prob=-0.1 - 0.2, cosine=math.nextafter(1, 0)
        ),
        PairRecord(4, None, "skipped", reason="tie", pair_in_row=1, boundary_moved=False),
    ],
    [LayerRecord(3, None, GroupProducts("head", 1e-300, 2.0, -math.pi))],
)


def ranks(size: int) -> tuple[MainRank, list[WorkerRank]]:
    box = Mailbox(HashStore())
    return MainRank(box, 0, size, 0, size), [WorkerRank(box, rank, size, rank, size) for rank in range(1, size)]


@pytest.mark.parametrize("seed", range(5))
def test_every_batch_goes_to_one_idle_process(seed: int) -> None:
    first, others = ranks(4)
    chance = random.Random(seed)
    speeds = [chance.choice([0.0, 0.001, 0.004]) for _ in range(4)]

    def work(rank: DistributedRank, num_batches: int) -> list[int]:
        mine = []
        for number in range(num_batches):
            if rank.claim_batch(1):
                mine.append(number)
                time.sleep(speeds[rank.rank])
        return mine

    with ThreadPoolExecutor(4) as pool:
        for num_batches in (57, 1, 0, 20):  # rounds: a number drawn in one may be used in the next
            shares = list(pool.map(work, (first, *others), [num_batches] * 4))
            assert sorted(number for share in shares for number in share) == list(range(num_batches))


def test_a_slow_process_gets_fewer_batches() -> None:
    first, (other,) = ranks(2)

    def work(rank: DistributedRank, seconds: float) -> int:
        mine = 0
        for _ in range(60):
            if rank.claim_batch(1):
                mine += 1
                time.sleep(seconds)
        return mine

    with ThreadPoolExecutor(2) as pool:
        fast, slow = pool.map(work, (first, other), (0.002, 0.02))
    assert fast + slow == 60
    assert slow < 25


def test_records_arrive_as_they_were_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "PIECE_BYTES", 100)
    first, (other,) = ranks(2)
    sent = (BATCH, RecordBatch(BATCH.pairs[:1], []))
    assert all(other.claim_batch(len(batch.pairs)) for batch in sent)
    assert [first.claim_batch(len(batch.pairs)) for batch in sent] == [False, False]
    for batch in sent:
        other.send(batch)

    with ThreadPoolExecutor(1) as pool:
        is_next = pool.submit(other.next_round)
        received = [batch for batch in first.gather(iter([RecordBatch(BATCH.pairs[1:])])) if batch.pairs]
        first.end_round(is_last=False)
        assert is_next.result()
    assert received == [RecordBatch(BATCH.pairs[1:]), BATCH, RecordBatch(BATCH.pairs[:1], [])]

    with ThreadPoolExecutor(1) as pool:
        is_next = pool.submit(other.next_round)
        assert not [batch for batch in first.gather(iter(())) if batch.pairs]
        first.end_round(is_last=True)
        assert not is_next.result()


def test_a_claimed_pair_that_does_not_arrive_is_an_error() -> None:
    first, (other,) = ranks(2)
    assert other.claim_batch(2)
    assert not first.claim_batch(2)
    other.send(RecordBatch(BATCH.pairs[:1], []))
    other._send("end", None)
    with pytest.raises(UnfinishedError, match="pairs that they claimed; missing: 1"):
        list(first.gather(iter(())))


def test_restarted_processes_get_an_empty_mailbox() -> None:
    store = Mailbox(HashStore())
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            late = pool.submit(lambda: (time.sleep(0.1), meet(store, 0, 3))[1])
            others = [pool.submit(meet, store, rank, 3) for rank in (1, 2)]
            first, *rest = [found.result() for found in (late, *others)]
        assert first.next_number("batches") == 0
        first.post("word", "new")
        assert [other.read("word") for other in rest] == ["new", "new"]
        assert [other.next_number("batches") for other in rest] == [1, 2]


def test_finished_rows_reach_the_other_processes() -> None:
    first, others = ranks(3)
    done = {5, 7, (8, 0), (8, 1)}
    first.share_done(done)
    assert [other.done() for other in others] == [frozenset(done)] * 2


def test_all_processes_use_the_smallest_batch_size() -> None:
    first, others = ranks(3)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda rank, number: rank.lowest(number), (first, *others), (512, 256, 1024))) == [256] * 3


def test_processes_with_different_work_are_refused() -> None:
    first, (same, other) = ranks(3)
    first.agree({"model": {"sha256": "a"}, "data": (1, 2), "settings": {"max_length": 5}})
    same.agree({"model": {"sha256": "a"}, "data": [1, 2], "settings": {"max_length": 5}})
    with pytest.raises(UsageError, match="does not match rank 0 in: model, settings"):
        other.agree({"model": {"sha256": "b"}, "data": (1, 2), "settings": {}})


@pytest.mark.parametrize("kind", [DataError, UsageError, UnfinishedError])
def test_rank_0_raises_the_error_of_another_process(kind: type[EntangleError], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "LONGEST_WAIT_SECONDS", 0.0)
    first, (other,) = ranks(2)
    with pytest.raises(LostProcessError, match="rank 0: no sign of life"):
        other.fail(kind("row 7 is broken", "a whole one", "mend it"))
    with pytest.raises(kind, match="rank 1: row 7 is broken\n  expected: a whole one\n  to do: mend it"):
        list(first.gather(iter(())))


def test_a_failure_ends_the_wait_at_the_start() -> None:
    first, (other, _) = ranks(3)
    other._mailbox.root.post("failure/1", json.dumps(["DataError", "no such file", "a file", "name one"]))
    with pytest.raises(DataError, match="rank 1: no such file"):
        first.lowest(1)


def test_every_wait_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "LONGEST_WAIT_SECONDS", 0.05)
    first, (_, other) = ranks(3)
    other._send("end", None)
    with pytest.raises(LostProcessError, match=r"rank 1, 2: no sign of life for 0:00:00\.05"):
        list(first.gather(iter(())))
    with pytest.raises(LostProcessError, match="rank 0: no sign of life"):
        other.lowest(1)


def test_a_process_without_a_heartbeat_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(mailbox, "SILENT_SECONDS", 1.0)
    first, (other, _) = ranks(3)
    since = time.monotonic()
    with other._mailbox.heartbeat(1), pytest.raises(LostProcessError, match="rank 2: no sign of life"):
        list(first.gather(iter(())))
    assert time.monotonic() - since >= 1.0
    first, (other,) = ranks(2)
    with other._mailbox.heartbeat(1), ThreadPoolExecutor(1) as pool:
        gathered = pool.submit(lambda: list(first.gather(iter(()))))
        time.sleep(1.5)
        assert not gathered.done()
        other._send("end", None)
        gathered.result()


def test_a_long_wait_prints_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "NOTICE_SECONDS", 0.05)
    monkeypatch.setattr(mailbox, "LONGEST_WAIT_SECONDS", 0.2)
    told: list[str] = []
    with pytest.raises(LostProcessError):
        meet(Mailbox(HashStore(), told.append), 0, 2)
    assert len(told) == 1
    assert told[0].startswith("waiting for rank 1 of torchrun's processes; to scan with this process alone")


def test_scans_do_not_see_each_other() -> None:
    first, (other,) = ranks(2)
    for name, done in (("a", {1}), ("b", {2})):
        first.apart(name).share_done(done)
    assert other.apart("b").done() == {2}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "somewhere"},  # as job schedulers set them
        {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1", "RANK": "0"},
    ],
)
def test_a_process_that_torchrun_did_not_start_is_alone(environment: dict[str, str]) -> None:
    with launched(print, environment) as launch:
        ranks = launch.ranks
    assert type(ranks) is Ranks
    assert ranks.claim_batch(1)
    batches: Sequence[RecordBatch] = [BATCH]
    assert list(ranks.gather(iter(batches))) == batches
