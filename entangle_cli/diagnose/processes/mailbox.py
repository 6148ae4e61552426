"""Messages between the processes of one torchrun: named texts in torchrun's key-value store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store

from entangle_cli.errors import UnfinishedError

PIECE_BYTES = 4 << 20
"""The store refuses values of more than 8 MiB."""
POLL_SECONDS = 0.02
BEAT_SECONDS = 5.0
SILENT_SECONDS = 120.0
"""A process is considered dead after this time without a heartbeat. torchrun detects a dead process on its own machine
at once, but does not report dead processes to other machines."""
LONGEST_WAIT_SECONDS = 3600.0
"""Longest wait for a live process; it may be loading a large model."""
NOTICE_SECONDS = 20.0
"""Delay before we print the names of the missing processes."""


class LostProcessError(UnfinishedError):
    """Another process or the store is gone. A restart may succeed."""


class Mailbox:
    """A store for values of any size, with a limit on every wait.

    Args:
        store: torchrun's store.
        notify: called with messages for the user; None to drop them.
        root: the outer mailbox that holds the heartbeats; None for this one.
    """

    def __init__(self, store: Store, notify: Callable[[str], None] | None = None, root: Mailbox | None = None) -> None:
        self._store = store
        self.notify = notify or (lambda _: None)
        self.root = root or self

    def inner(self, name: str, *, is_root: bool = False) -> Mailbox:
        """A separate mailbox inside this one."""
        return Mailbox(PrefixStore(name, self._store), self.notify, None if is_root else self.root)

    @contextmanager
    def heartbeat(self, rank: int) -> Iterator[None]:
        """Send heartbeats of this process until the context ends."""
        is_over = threading.Event()

        def beat() -> None:
            number = 0
            while not is_over.wait(BEAT_SECONDS):
                number += 1
                try:
                    self._store.set(f"beat/{rank}", str(number))
                except DistError:  # the store is gone; other calls report it
                    return

        thread = threading.Thread(target=beat, name="entangle-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def last_beat(self, rank: int) -> str | None:
        """The number of a process's last heartbeat; None before the first."""
        with _store_access():
            name = f"beat/{rank}"
            return self._store.get(name).decode() if self._store.check([name]) else None

    def next_number(self, name: str) -> int:
        """The next number of a counter shared by all processes, from 0."""
        with _store_access():
            return int(self._store.add(name, 1)) - 1

    def post(self, name: str, text: str) -> None:
        """Store ASCII text under an unused name."""
        pieces = [text[start : start + PIECE_BYTES] for start in range(0, len(text), PIECE_BYTES)]
        with _store_access():
            for number, piece in enumerate(pieces):
                self._store.set(f"{name}/{number}", piece)
            # Written last: a process that sees it finds all pieces.
            self._store.set(name, str(len(pieces)))

    def read(self, name: str) -> str | None:
        """The text stored under a name, which stays stored; None if there is none yet."""
        with _store_access():
            if not self._store.check([name]):
                return None
            pieces = [self._store.get(f"{name}/{number}") for number in range(int(self._store.get(name)))]
            return b"".join(pieces).decode("ascii")

    def take(self, name: str) -> str | None:
        """Remove and return the text stored under a name; None if there is none yet."""
        text = self.read(name)
        if text is not None:
            with _store_access():
                for number in range(int(self._store.get(name))):
                    self._store.delete_key(f"{name}/{number}")
                self._store.delete_key(name)
        return text

    def wait(self, name: str, rank: int, meanwhile: Callable[[], None] = lambda: None) -> str:
        """Wait for the text stored under a name.

        Args:
            rank: rank of the process that stores it.
            meanwhile: called repeatedly during the wait.
        Raises:
            LostProcessError: the process does not store it, or the store is gone.
        """
        wait_limit = WaitLimit(self.root, [rank])
        while (text := self.read(name)) is None:
            meanwhile()
            wait_limit.sleep()
        return text


class WaitLimit:
    """A time limit for waiting on other processes.

    Args:
        mailbox: holds their heartbeats.
        ranks: ranks of these processes.
    """

    def __init__(self, mailbox: Mailbox, ranks: Sequence[int]) -> None:
        self._mailbox = mailbox
        self._names = "rank " + ", ".join(map(str, ranks))
        self._start = self._last_check = time.monotonic()
        self._beats: dict[int, tuple[str | None, float]] = dict.fromkeys(ranks, (None, self._start))
        self._notified = False

    def sleep(self) -> None:
        """Sleep for a moment.

        Raises:
            LostProcessError: the wait is over, or a process sends no heartbeat.
        """
        now = time.monotonic()
        if not self._notified and now - self._start > NOTICE_SECONDS:
            self._notified = True
            self._mailbox.notify(f"waiting for {self._names} of torchrun's processes; {REMEDY}")
        if now - self._last_check > BEAT_SECONDS:
            self._last_check = now
            self._check_heartbeats(now)
        if now - self._start > LONGEST_WAIT_SECONDS:
            raise _lost(self._names, LONGEST_WAIT_SECONDS)
        time.sleep(POLL_SECONDS)

    def _check_heartbeats(self, now: float) -> None:
        for rank, (last_beat, since) in self._beats.items():
            beat = self._mailbox.last_beat(rank)
            if beat != last_beat:
                self._beats[rank] = beat, now
            elif now - since > SILENT_SECONDS:
                raise _lost(f"rank {rank}", SILENT_SECONDS)


REMEDY = "to scan with this process alone, unset TORCHELASTIC_RUN_ID"


def _lost(names: str, seconds: float) -> LostProcessError:
    return LostProcessError(
        f"{names}: no sign of life for {timedelta(seconds=seconds)}",
        "the same command in every process that torchrun starts",
        f"read the output of these processes, then run the same command again; {REMEDY}",
    )


@contextmanager
def _store_access() -> Iterator[None]:
    try:
        yield
    except DistError as error:
        raise LostProcessError(
            f"torchrun's store: {str(error).splitlines()[0]}",
            "a connection to torchrun until all its processes end",
            "run the same command again; it resumes from here",
        ) from error
