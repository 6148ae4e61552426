"""What processes of one torchrun leave for each other: text by name, in the key-value store that torchrun keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store

from entangle_cli.errors import UnfinishedError

PIECE_BYTES = 4 << 20
"""The store refuses values of more than 8 MiB."""
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 3600.0
"""How long a process is waited for. torchrun sees at once that one has died; this is for one that hangs."""


class Mailbox:
    """A store that holds values of any size and is never waited for without end.

    Args:
        store: torchrun's.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def apart(self, name: str) -> Mailbox:
        """A mailbox of its own within this one."""
        return Mailbox(PrefixStore(name, self._store))

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

    def wait(self, name: str, whose: str, meanwhile: Callable[[], None] = lambda: None) -> str:
        """What is left under a name, once it is.

        Args:
            whose: who will leave it, for the message.
            meanwhile: called again and again.
        Raises:
            UnfinishedError: nobody leaves it, or the store is gone.
        """
        patience = Patience(whose)
        while (text := self.read(name)) is None:
            meanwhile()
            patience.rest()
        return text


class Patience:
    """A wait for other processes that ends.

    Args:
        whose: who is waited for, for the message.
    """

    def __init__(self, whose: str) -> None:
        self._whose = whose
        self._since = time.monotonic()

    def rest(self) -> None:
        """Sleep a little.

        Raises:
            UnfinishedError: it has been long.
        """
        if time.monotonic() - self._since > PATIENCE_SECONDS:
            raise UnfinishedError(
                f"{self._whose}: no word for {timedelta(seconds=PATIENCE_SECONDS)}",
                "the same command in every process that torchrun starts",
                "see what they print, and give the same command again; for a scan of this process alone, "
                "unset TORCHELASTIC_RUN_ID",
            )
        time.sleep(POLL_SECONDS)


@contextmanager
def _reaching_the_store() -> Iterator[None]:
    try:
        yield
    except DistError as error:
        raise UnfinishedError(
            f"torchrun's store: {str(error).splitlines()[0]}",
            "torchrun to run as long as its processes do",
            "give the same command again; it goes on from here",
        ) from error
