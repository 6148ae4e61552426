"""What torchrun started: whether this process has others beside it, and where they meet."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from entangle_cli.diagnose.processes.mailbox import Mailbox, WaitLimit
from entangle_cli.diagnose.processes.ranks import First, Ranks, WorkerRank


@dataclass(frozen=True, slots=True)
class TorchrunProcess:
    """A start of this process, and of others beside it."""

    ranks: Ranks
    seconds_before: float = 0.0
    """Since the first start, where torchrun starts its processes again (--max-restarts)."""
    ended_with: int | None = None
    """The exit code that an earlier start ended with for good; None where none did."""
    outermost: Mailbox | None = None
    """What outlives a start; None for a process alone."""

    def end(self, code: int) -> None:
        """Note that the scan ended with this exit code for good: another start would end it so again."""
        if self.outermost is not None and self.ranks.rank == 0:
            self.outermost.post("ended", str(code))


@contextmanager
def launched(tell: Callable[[str], None], environment: Mapping[str, str] = os.environ) -> Iterator[TorchrunProcess]:
    """The processes of the torchrun that started this one; it is alone where none did, or it started no other.

    Args:
        tell: takes a sentence for people.
    """
    if "TORCHELASTIC_RUN_ID" not in environment or int(environment.get("WORLD_SIZE", "1")) == 1:
        yield TorchrunProcess(Ranks())
        return
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://"))
    outermost = Mailbox(store, tell)
    if (ended := outermost.read("ended")) is not None:
        yield TorchrunProcess(Ranks(), ended_with=int(ended))
        return
    began = outermost.read("began")
    if rank == 0 and began is None:
        outermost.post("began", str(time.time()))
    place = meet(outermost, rank, size)
    kind = First if rank == 0 else WorkerRank
    ranks = kind(place, rank, size, int(environment["LOCAL_RANK"]), int(environment["LOCAL_WORLD_SIZE"]))
    with place.heartbeat(rank):
        yield TorchrunProcess(ranks, 0.0 if began is None else time.time() - float(began), None, outermost)


def meet(mailbox: Mailbox, rank: int, size: int) -> Mailbox:
    """A mailbox that only the processes of this start share.

    When torchrun starts its processes again, the store still holds what those before left, and what it calls the
    number of the attempt may differ between machines. So rank 0 names a place that was never used, and another
    process goes there only when rank 0 has answered the very name that it drew for itself.

    Raises:
        LostProcessError: a process does not come.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        mailbox.post("place", own)
        place = mailbox.apart(own, is_root=True)
        names = [own, *(place.wait(f"name/{other}", other) for other in range(1, size))]
        place.post("names", json.dumps(names))
        return place
    patience = WaitLimit(mailbox, [0])
    while True:
        if (found := mailbox.read("place")) is not None:
            place = mailbox.apart(found, is_root=True)
            place.post(f"name/{rank}", own)
            if (answer := place.read("names")) is not None and json.loads(answer)[rank] == own:
                return place
        patience.rest()
