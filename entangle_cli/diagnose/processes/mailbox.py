"""What processes of one torchrun leave for each other: text by name, in the key-value store that torchrun keeps."""

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
"""A process without a heartbeat for so long is taken for dead. On its own machine torchrun sees that at once; of one on
another machine it tells nobody."""
PATIENCE_SECONDS = 3600.0
"""How long a process that lives is waited for; it may be loading a large model."""
TOLD_SECONDS = 20.0
"""After so long somebody is told who is waited for."""


class LostProcessError(UnfinishedError):
    """Another process, or the store, is gone; a new start may find it again."""


class Mailbox:
    """A store that holds values of any size and is never waited for without end.

    Args:
        store: torchrun's.
        tell: takes a sentence for people; None for nobody.
        root: the mailbox that this one lies in, if any: heartbeats are in the outermost.
    """

    def __init__(self, store: Store, tell: Callable[[str], None] | None = None, root: Mailbox | None = None) -> None:
        self._store = store
        self.tell = tell or (lambda _: None)
        self.root = root or self

    def apart(self, name: str, *, is_root: bool = False) -> Mailbox:
        """A mailbox of its own within this one."""
        return Mailbox(PrefixStore(name, self._store), self.tell, None if is_root else self.root)

    @contextmanager
    def heartbeat(self, rank: int) -> Iterator[None]:
        """Show others that this process lives, for as long as the context lasts."""
        is_over = threading.Event()

        def beat() -> None:
            number = 0
            while not is_over.wait(BEAT_SECONDS):
                number += 1
                try:
                    self._store.set(f"beat/{rank}", str(number))
                except DistError:  # the store is gone, as everybody will see
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
        with _reaching_the_store():
            name = f"beat/{rank}"
            return self._store.get(name).decode() if self._store.check([name]) else None

    def next_number(self, name: str) -> int:
        """0 for the process that asks first, 1 for the next one to ask, and so on."""
        with _reaching_the_store():
            return int(self._store.add(name, 1)) - 1

    def post(self, name: str, text: str) -> None:
        """Leave ASCII text under a name that was not used before."""
        pieces = [text[start : start + PIECE_BYTES] for start in range(0, len(text), PIECE_BYTES)]
        with _reaching_the_store():
            for number, piece in enumerate(pieces):
                self._store.set(f"{name}/{number}", piece)
            # Last, so that whoever sees it finds the pieces.
            self._store.set(name, str(len(pieces)))

    def read(self, name: str) -> str | None:
        """What was left under a name, and stays there; None where nothing is yet."""
        with _reaching_the_store():
            if not self._store.check([name]):
                return None
            pieces = [self._store.get(f"{name}/{number}") for number in range(int(self._store.get(name)))]
            return b"".join(pieces).decode("ascii")

    def take(self, name: str) -> str | None:
        """What was left under a name, which is empty afterwards; None where nothing is yet."""
        text = self.read(name)
        if text is not None:
            with _reaching_the_store():
                for number in range(int(self._store.get(name))):
                    self._store.delete_key(f"{name}/{number}")
                self._store.delete_key(name)
        return text

    def wait(self, name: str, rank: int, meanwhile: Callable[[], None] = lambda: None) -> str:
        """What is left under a name, once it is.

        Args:
            rank: who will leave it.
            meanwhile: called again and again.
        Raises:
            LostProcessError: nobody leaves it, or the store is gone.
        """
        patience = WaitLimit(self.root, [rank])
        while (text := self.read(name)) is None:
            meanwhile()
            patience.rest()
        return text


class WaitLimit:
    """A wait for other processes that ends.

    Args:
        mailbox: where their heartbeats are.
        ranks: who is waited for.
    """

    def __init__(self, mailbox: Mailbox, ranks: Sequence[int]) -> None:
        self._mailbox = mailbox
        self._names = "rank " + ", ".join(map(str, ranks))
        self._since = self._looked = time.monotonic()
        self._beats: dict[int, tuple[str | None, float]] = dict.fromkeys(ranks, (None, self._since))
        self._is_told = False

    def rest(self) -> None:
        """Sleep a little.

        Raises:
            LostProcessError: the time is over, or a process shows no sign of life.
        """
        now = time.monotonic()
        if not self._is_told and now - self._since > TOLD_SECONDS:
            self._is_told = True
            self._mailbox.tell(f"waiting for {self._names} of torchrun's processes; {REMEDY}")
        if now - self._looked > BEAT_SECONDS:
            self._looked = now
            self._look(now)
        if now - self._since > PATIENCE_SECONDS:
            raise _lost(self._names, PATIENCE_SECONDS)
        time.sleep(POLL_SECONDS)

    def _look(self, now: float) -> None:
        for rank, (known, since) in self._beats.items():
            beat = self._mailbox.last_beat(rank)
            if beat != known:
                self._beats[rank] = beat, now
            elif now - since > SILENT_SECONDS:
                raise _lost(f"rank {rank}", SILENT_SECONDS)


REMEDY = "for a scan of this process alone unset TORCHELASTIC_RUN_ID"


def _lost(names: str, seconds: float) -> LostProcessError:
    return LostProcessError(
        f"{names}: no sign of life for {timedelta(seconds=seconds)}",
        "the same command in every process that torchrun starts",
        f"see what they print, and give the same command again; {REMEDY}",
    )


@contextmanager
def _reaching_the_store() -> Iterator[None]:
    try:
        yield
    except DistError as error:
        raise LostProcessError(
            f"torchrun's store: {str(error).splitlines()[0]}",
            "torchrun to run as long as its processes do",
            "give the same command again; it goes on from here",
        ) from error
