"""The part of a scan that runs in a process of Ray: loads the model and measures batches.

Nothing at the top of this module loads torch. The environment must be set before.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from entangle_cli.errors import EntangleError
from entangle_cli.records.model_description import ModelDescription
from entangle_cli.records.pair import RecordBatch
from entangle_cli.records.settings import ScanSettings

if TYPE_CHECKING:
    from entangle_cli.diagnose.scan.estimate import Cost
    from entangle_cli.diagnose.scan.loaded_model import LoadedModel
    from entangle_cli.diagnose.scan.row_records import PreparedRow

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Opened:
    """A worker that is ready."""

    model: ModelDescription
    host: str
    process_id: int

    @property
    def process(self) -> tuple[str, int]:
        """What tells its process from others."""
        return self.host, self.process_id


class Worker:
    """Measures batches. Errors that the user can fix are returned, because Ray would wrap them.

    The model belongs to one thread, because torch keeps some of its settings per thread. Ray's own thread receives the
    next batch and sends the last records meanwhile.

    Args:
        model: a checkpoint's folder or hub name.
        folder: the working directory of the command, for relative paths.
        threads: CPU threads of torch.
        num_sharing: number of workers that share the memory of a machine.
        environment: variables to set unless they are set.
    """

    def __init__(
        self,
        model: str,
        settings: ScanSettings,
        folder: Path,
        threads: int,
        num_sharing: int,
        environment: dict[str, str],
    ) -> None:
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        with suppress(OSError):  # on another machine it may not exist; then no relative path is found, which is told
            os.chdir(folder)
        self._model = model
        self._settings = settings
        self._threads = threads
        self._num_sharing = num_sharing
        self._stack = ExitStack()
        self._loaded: LoadedModel | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="entangle-model")

    async def start(self) -> None:
        """Do nothing. When it returns, there is a process."""

    async def open(self) -> Opened | EntangleError:
        """Load the model, unless it is loaded."""
        return await self._in_thread(self._open)

    def _open(self) -> Opened:
        import torch

        from entangle_cli.data.checkpoint import quiet_libraries
        from entangle_cli.diagnose.scan.loaded_model import open_model

        if self._loaded is None:
            torch.set_num_threads(self._threads)
            self._stack.enter_context(quiet_libraries())
            self._loaded = self._stack.enter_context(open_model(self._model, self._settings, self._num_sharing))
        return Opened(self._loaded.description, socket.gethostname(), os.getpid())

    async def measure(self, rows: Sequence[PreparedRow]) -> RecordBatch | EntangleError | None:
        """The records of a batch; None without a model. On a GPU, they are formed while the next batch runs."""
        if self._loaded is None:  # Ray started this process for one that died while it was idle
            return None
        measurer = self._loaded.measurer
        if not measurer.runs_ahead:
            return await self._in_thread(lambda: measurer.measure(rows))
        started = await self._in_thread(lambda: measurer.start(rows))
        if isinstance(started, EntangleError):
            return started
        return await asyncio.to_thread(returning_errors, started)

    async def cost(self, longest: Sequence[PreparedRow], typical: Sequence[PreparedRow]) -> Cost | EntangleError:
        """What two batches cost."""
        assert self._loaded is not None
        loaded = self._loaded
        return await self._in_thread(lambda: loaded.cost(longest, typical))

    async def _in_thread(self, work: Callable[[], Result]) -> Result | EntangleError:
        """The result of work in the thread of the model."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, returning_errors, work)


def returning_errors(work: Callable[[], Result]) -> Result | EntangleError:
    """The result of work, or the error that the user can fix. Ray would wrap an error that is raised."""
    try:
        return work()
    except EntangleError as error:
        return error
