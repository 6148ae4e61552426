"""Detects whether torchrun started this process, and connects it to the other processes."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from entangle_cli.diagnose.processes.mailbox import Mailbox, WaitLimit
from entangle_cli.diagnose.processes.ranks import MainRank, Ranks, WorkerRank


@dataclass(frozen=True, slots=True)
class TorchrunProcess:
    """This process and the processes that started with it."""

    ranks: Ranks
    seconds_before: float = 0.0
    """Time since the first start, if torchrun restarted its processes (--max-restarts)."""
    ended_with: int | None = None
    """Final exit code of an earlier start; None if no start reached a final result."""
    outermost: Mailbox | None = None
    """The mailbox that survives restarts; None for a single process."""

    def end(self, code: int) -> None:
        """Record the final exit code of the scan. A restart would end with the same code."""
        if self.outermost is not None and self.ranks.rank == 0:
            self.outermost.post("ended", str(code))


@contextmanager
def launched(notify: Callable[[str], None], environment: Mapping[str, str] = os.environ) -> Iterator[TorchrunProcess]:
    """Connect to the other processes that torchrun started; without torchrun, this process works alone.

    Args:
        notify: called with messages for the user.
    """
    if "TORCHELASTIC_RUN_ID" not in environment or int(environment.get("WORLD_SIZE", "1")) == 1:
        yield TorchrunProcess(Ranks())
        return
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://"))
    outermost = Mailbox(store, notify)
    if (ended := outermost.read("ended")) is not None:
        yield TorchrunProcess(Ranks(), ended_with=int(ended))
        return
    began = outermost.read("began")
    if rank == 0 and began is None:
        outermost.post("began", str(time.time()))
    mailbox = meet(outermost, rank, size)
    kind = MainRank if rank == 0 else WorkerRank
    ranks = kind(mailbox, rank, size, int(environment["LOCAL_RANK"]), int(environment["LOCAL_WORLD_SIZE"]))
    with mailbox.heartbeat(rank):
        yield TorchrunProcess(ranks, 0.0 if began is None else time.time() - float(began), None, outermost)


def meet(outermost: Mailbox, rank: int, size: int) -> Mailbox:
    """A mailbox shared only by the processes of this start.

    After a restart, the store still holds the entries of the earlier start, and torchrun's attempt number may differ
    between machines. Rank 0 therefore announces a new random name for the mailbox. Every other process writes its own
    random name there. It accepts the mailbox only if rank 0 returns this name.

    Raises:
        LostProcessError: a process does not respond.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        outermost.post("place", own)
        mailbox = outermost.inner(own, is_root=True)
        names = [own, *(mailbox.wait(f"name/{other}", other) for other in range(1, size))]
        mailbox.post("names", json.dumps(names))
        return mailbox
    wait_limit = WaitLimit(outermost, [0])
    while True:
        if (name := outermost.read("place")) is not None:
            mailbox = outermost.inner(name, is_root=True)
            mailbox.post(f"name/{rank}", own)
            if (answer := mailbox.read("names")) is not None and json.loads(answer)[rank] == own:
                return mailbox
        wait_limit.sleep()
