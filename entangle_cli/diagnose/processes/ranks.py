"""One scan by several processes, as torchrun starts them: who measures what, and how rank 0 comes by it.

Every process reads the same rows and forms the same batches. Each batch goes to the first idle process, by a number
that the store hands out. Rank 0 alone writes the run: the others send it their records. No tensor is exchanged, and no
backend is set up.
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
    """The processes that share a scan, seen from one of them; as it stands here, this process alone.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        local_rank: of this process on its machine.
        local_size: number of processes on this machine.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    def apart(self, name: str) -> Ranks:  # noqa: ARG002 -- there is nobody to keep apart
        """The same processes for another scan."""
        return self

    def lowest(self, number: int) -> int:
        """The lowest of the numbers that the processes give."""
        return number

    def agree(self, work: Mapping[str, Any]) -> None:
        """See that all processes measure the same, and leave out the same.

        Raises:
            UsageError: the processes disagree.
        """

    def share_done(self, done: Iterable[RowKey]) -> None:
        """Tell the others what the run holds already."""

    def takes(self, num_pairs: int) -> bool:  # noqa: ARG002 -- it takes every batch
        """Whether this process measures the next batch of those that all form.

        Args:
            num_pairs: of the batch.
        """
        return True

    def gather(self, measured: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
        """What this process measures and what the others send, until all have come to the end of a round."""
        return measured

    def end_round(self, *, is_last: bool) -> None:
        """Tell the others whether there is another round."""

    def fail(self, error: EntangleError) -> None:
        """Leave an error to rank 0, where that is another process."""


class OneOfMany(Ranks):
    """A process of several.

    Args:
        mailbox: of one scan, within that of this start.
    """

    def __init__(self, mailbox: Mailbox, rank: int, size: int, local_rank: int, local_size: int) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._mailbox = mailbox
        self._num_seen = 0
        self._mine: int | None = None
        self._round = 0

    def apart(self, name: str) -> OneOfMany:
        """The same processes for another scan."""
        return type(self)(self._mailbox.apart(name), self.rank, self.size, self.local_rank, self.local_size)

    def takes(self, num_pairs: int) -> bool:  # noqa: ARG002 -- rank 0 alone keeps count
        """Whether this process measures the next batch of those that all form.

        A number is asked for when this process is free, and is never that of a batch it has passed already: every
        one of those was below a number that somebody got.
        """
        if self._mine is None:
            self._mine = self._mailbox.next_number("batches")
        is_mine = self._mine == self._num_seen
        self._num_seen += 1
        if is_mine:
            self._mine = None
        return is_mine


class First(OneOfMany):
    """Rank 0, which writes the run and reports."""

    def __init__(self, mailbox: Mailbox, rank: int, size: int, local_rank: int, local_size: int) -> None:
        super().__init__(mailbox, rank, size, local_rank, local_size)
        self._num_read = dict.fromkeys(range(1, size), 0)
        self._measuring = set(self._num_read)
        self._num_awaited = 0

    def takes(self, num_pairs: int) -> bool:
        """Whether this process measures the next batch; if not, its pairs are awaited from another."""
        is_mine = super().takes(num_pairs)
        self._num_awaited += 0 if is_mine else num_pairs
        return is_mine

    def lowest(self, number: int) -> int:
        """The lowest of the numbers that the processes give."""
        numbers = [number]
        for rank in range(1, self.size):
            numbers.append(int(self._mailbox.wait(f"number/{rank}", rank, self._raise_failures)))
        self._mailbox.post("lowest", str(min(numbers)))
        return min(numbers)

    def agree(self, work: Mapping[str, Any]) -> None:
        """Tell the others what is measured."""
        self._mailbox.post("work", json.dumps(work))

    def share_done(self, done: Iterable[RowKey]) -> None:
        """Tell the others what the run holds already."""
        self._mailbox.post("done", json.dumps(list(done)))

    def gather(self, measured: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
        """What this process measures and what the others send, until all have come to the end of a round.

        An empty batch comes now and then while others are waited for, so that a caller sees that time goes by.

        Raises:
            EntangleError: what another process failed with.
            LostProcessError: another process shows no sign of life, or did not measure what it took.
        """
        for batch in measured:
            yield batch
            yield from self._arrived()
        patience = self._patience()
        while self._measuring:
            if batches := list(self._arrived()):
                patience = self._patience()
                yield from batches
            else:
                patience.rest()
                yield RecordBatch(())
        if self._num_awaited:
            raise LostProcessError(
                f"of the pairs that other processes took {self._num_awaited:,} did not arrive",
                "every pair measured by some process",
                "give the same command again; it measures what is missing",
            )
        self._measuring = set(self._num_read)

    def end_round(self, *, is_last: bool) -> None:
        """Tell the others whether there is another round."""
        self._mailbox.post(f"last/{self._round}", json.dumps(is_last))
        self._round += 1

    def _patience(self) -> WaitLimit:
        return WaitLimit(self._mailbox.root, sorted(self._measuring))

    def _raise_failures(self) -> None:
        for rank in self._num_read:
            if (failure := self._mailbox.root.read(f"failure/{rank}")) is not None:
                raise _failure(rank, *json.loads(failure))

    def _arrived(self) -> Iterator[RecordBatch]:
        """Batches that were sent and not read yet; an end is noted, a failure is raised."""
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


class WorkerRank(OneOfMany):
    """A process that measures for rank 0."""

    def __init__(self, mailbox: Mailbox, rank: int, size: int, local_rank: int, local_size: int) -> None:
        super().__init__(mailbox, rank, size, local_rank, local_size)
        self._num_sent = 0

    def lowest(self, number: int) -> int:
        """The lowest of the numbers that the processes give."""
        self._mailbox.post(f"number/{self.rank}", str(number))
        return int(self._mailbox.wait("lowest", 0))

    def agree(self, work: Mapping[str, Any]) -> None:
        """See that this process measures what rank 0 does.

        Raises:
            UsageError: this process disagrees with rank 0.
        """
        first = json.loads(self._mailbox.wait("work", 0))
        own = json.loads(json.dumps(work))
        if different := sorted(name for name in first.keys() | own.keys() if first.get(name) != own.get(name)):
            raise UsageError(
                f"another {', '.join(different)} than rank 0",
                "the same command, the same model and the same data in every process",
                "see that all machines have the same files",
            )

    def done(self) -> frozenset[RowKey]:
        """What the run holds already."""
        keys = json.loads(self._mailbox.wait("done", 0))
        return frozenset(key if isinstance(key, int) else (key[0], key[1]) for key in keys)

    def send(self, batch: RecordBatch) -> None:
        """Send records to rank 0."""
        self._send("records", [[asdict(pair) for pair in batch.pairs], [asdict(layer) for layer in batch.layers]])

    def next_round(self) -> bool:
        """Say that this process has come to the end of a round; whether there is another one."""
        self._send("end", None)
        is_last = json.loads(self._mailbox.wait(f"last/{self._round}", 0))
        self._round += 1
        return not is_last

    def fail(self, error: EntangleError) -> None:
        """Tell rank 0, whose message and exit code are the scan's; it ends this process by way of torchrun.

        Raises:
            LostProcessError: rank 0 gives no answer.
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
