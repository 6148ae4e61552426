"""One scan by several torchrun processes: distributes the batches and collects the records on rank 0.

Every process reads the same rows and forms the same batches. Each batch goes to the first idle process: a process
claims the next batch with a counter in the store. Only rank 0 writes the run. The other processes send it their
records. No tensors are exchanged and no backend is set up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from entangle_cli.diagnose.processes.mailbox import LostProcessError, Mailbox, WaitLimit
from entangle_cli.errors import EntangleError, UsageError
from entangle_cli.records.measurement import GroupProducts
from entangle_cli.records.pair import LayerRecord, PairRecord, RecordBatch, RowKey


class Ranks:
    """This process and its part in a shared scan. The base class is for a single process.

    Attributes:
        rank: rank of this process, from 0.
        size: number of processes.
        local_rank: rank of this process on its machine.
        local_size: number of processes on this machine.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    def apart(self, name: str) -> Ranks:  # noqa: ARG002 -- a single process exchanges no messages
        """The same processes for another scan."""
        return self

    def lowest(self, number: int) -> int:
        """The minimum of a number over all processes."""
        return number

    def agree(self, work: Mapping[str, Any]) -> None:
        """Check that all processes measure the same pairs in the same way.

        Raises:
            UsageError: the processes disagree.
        """

    def share_done(self, done: Iterable[RowKey]) -> None:
        """Send the keys of all rows in the run to the other processes."""

    def claim_batch(self, num_pairs: int) -> bool:  # noqa: ARG002 -- a single process measures every batch
        """Whether this process measures the next batch. Every process calls it for every batch.

        Args:
            num_pairs: number of pairs in the batch.
        """
        return True

    def gather(self, measured: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
        """Records from this process and from the others, until all processes end the round."""
        return measured

    def end_round(self, *, is_last: bool) -> None:
        """Announce to the others whether another round follows."""

    def fail(self, error: EntangleError) -> None:
        """Send an error to rank 0, if that is another process."""


class DistributedRank(Ranks):
    """One of several processes.

    Args:
        mailbox: the mailbox of one scan.
    """

    def __init__(self, mailbox: Mailbox, rank: int, size: int, local_rank: int, local_size: int) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._mailbox = mailbox
        self._num_seen = 0
        self._claimed: int | None = None
        self._round = 0

    def apart(self, name: str) -> DistributedRank:
        """The same processes for another scan."""
        return type(self)(self._mailbox.inner(name), self.rank, self.size, self.local_rank, self.local_size)

    def claim_batch(self, num_pairs: int) -> bool:  # noqa: ARG002 -- only rank 0 counts pairs
        """Whether this process measures the next batch. Every process calls it for every batch.

        An idle process draws the next number from the shared counter. This number is never below the current batch:
        all batches before it were claimed with lower numbers.
        """
        if self._claimed is None:
            self._claimed = self._mailbox.next_number("batches")
        is_mine = self._claimed == self._num_seen
        self._num_seen += 1
        if is_mine:
            self._claimed = None
        return is_mine


class MainRank(DistributedRank):
    """Rank 0. It writes the run and the reports."""

    def __init__(self, mailbox: Mailbox, rank: int, size: int, local_rank: int, local_size: int) -> None:
        super().__init__(mailbox, rank, size, local_rank, local_size)
        self._num_read = dict.fromkeys(range(1, size), 0)
        self._measuring = set(self._num_read)
        self._num_awaited = 0

    def claim_batch(self, num_pairs: int) -> bool:
        """Whether this process measures the next batch. If not, another process will send its pairs."""
        is_mine = super().claim_batch(num_pairs)
        self._num_awaited += 0 if is_mine else num_pairs
        return is_mine

    def lowest(self, number: int) -> int:
        """The minimum of a number over all processes."""
        numbers = [number]
        for rank in range(1, self.size):
            numbers.append(int(self._mailbox.wait(f"number/{rank}", rank, self._raise_failures)))
        self._mailbox.post("lowest", str(min(numbers)))
        return min(numbers)

    def agree(self, work: Mapping[str, Any]) -> None:
        """Send the description of the scan to the other processes."""
        self._mailbox.post("work", json.dumps(work))

    def share_done(self, done: Iterable[RowKey]) -> None:
        """Send the keys of all rows in the run to the other processes."""
        self._mailbox.post("done", json.dumps(list(done)))

    def gather(self, measured: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
        """Records from this process and from the others, until all processes end the round.

        During a wait, empty batches let the caller update its display.

        Raises:
            EntangleError: another process failed with this error.
            LostProcessError: another process does not respond, or did not send all pairs that it claimed.
        """
        for batch in measured:
            yield batch
            yield from self._arrived()
        wait_limit = self._wait_limit()
        while self._measuring:
            if batches := list(self._arrived()):
                wait_limit = self._wait_limit()
                yield from batches
            else:
                wait_limit.sleep()
                yield RecordBatch(())
        if self._num_awaited:
            raise LostProcessError(
                f"other processes did not send all pairs that they claimed; missing: {self._num_awaited:,}",
                "a record for every pair",
                "run the same command again; it measures the missing pairs",
            )
        self._measuring = set(self._num_read)

    def end_round(self, *, is_last: bool) -> None:
        """Announce to the others whether another round follows."""
        self._mailbox.post(f"last/{self._round}", json.dumps(is_last))
        self._round += 1

    def _wait_limit(self) -> WaitLimit:
        return WaitLimit(self._mailbox.root, sorted(self._measuring))

    def _raise_failures(self) -> None:
        for rank in self._num_read:
            if (failure := self._mailbox.root.read(f"failure/{rank}")) is not None:
                raise _failure(rank, *json.loads(failure))

    def _arrived(self) -> Iterator[RecordBatch]:
        """Batches that were sent but not read yet. Records the end of a round and raises failures."""
        self._raise_failures()
        for rank in self._num_read:
            while (message := self._mailbox.take(f"mail/{rank}/{self._num_read[rank]}")) is not None:
                self._num_read[rank] += 1
                kind, content = json.loads(message)
                if kind == "end":
                    self._measuring.discard(rank)
                else:
                    batch = _batch(*content)
                    self._num_awaited -= len(batch.pairs)
                    yield batch


class WorkerRank(DistributedRank):
    """A process that measures for rank 0."""

    def __init__(self, mailbox: Mailbox, rank: int, size: int, local_rank: int, local_size: int) -> None:
        super().__init__(mailbox, rank, size, local_rank, local_size)
        self._num_sent = 0

    def lowest(self, number: int) -> int:
        """The minimum of a number over all processes."""
        self._mailbox.post(f"number/{self.rank}", str(number))
        return int(self._mailbox.wait("lowest", 0))

    def agree(self, work: Mapping[str, Any]) -> None:
        """Check that this process measures the same pairs in the same way as rank 0.

        Raises:
            UsageError: the description of the scan differs from that of rank 0.
        """
        first = json.loads(self._mailbox.wait("work", 0))
        own = json.loads(json.dumps(work))
        if different := sorted(name for name in first.keys() | own.keys() if first.get(name) != own.get(name)):
            raise UsageError(
                f"does not match rank 0 in: {', '.join(different)}",
                "the same command, the same model and the same data in every process",
                "check that all machines have the same files",
            )

    def done(self) -> frozenset[RowKey]:
        """Receive the keys of all rows in the run."""
        keys = json.loads(self._mailbox.wait("done", 0))
        return frozenset(key if isinstance(key, int) else (key[0], key[1]) for key in keys)

    def send(self, batch: RecordBatch) -> None:
        """Send records to rank 0."""
        self._send("records", [[asdict(pair) for pair in batch.pairs], [asdict(layer) for layer in batch.layers]])

    def next_round(self) -> bool:
        """End the round of this process. Returns whether another round follows."""
        self._send("end", None)
        is_last = json.loads(self._mailbox.wait(f"last/{self._round}", 0))
        self._round += 1
        return not is_last

    def fail(self, error: EntangleError) -> None:
        """Send an error to rank 0 and wait. Rank 0 sets the exit code; torchrun then ends this process.

        Raises:
            LostProcessError: rank 0 does not respond.
        """
        text = json.dumps([type(error).__name__, error.found, error.expected, error.remedy])
        self._mailbox.root.post(f"failure/{self.rank}", text)
        self._mailbox.wait("never", 0)

    def _send(self, kind: str, content: object) -> None:
        self._mailbox.post(f"mail/{self.rank}/{self._num_sent}", json.dumps([kind, content]))
        self._num_sent += 1


def _failure(rank: int, kind: str, found: str, expected: str, remedy: str) -> EntangleError:
    kinds: list[type[EntangleError]] = [*EntangleError.__subclasses__(), LostProcessError]
    return next(known for known in kinds if known.__name__ == kind)(f"rank {rank}: {found}", expected, remedy)


def _batch(pairs: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]]) -> RecordBatch:
    return RecordBatch(
        [PairRecord(**pair) for pair in pairs],
        [LayerRecord(layer["index"], layer["pair_in_row"], GroupProducts(**layer["products"])) for layer in layers],
    )
