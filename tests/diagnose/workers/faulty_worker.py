"""A worker with faults, for tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.diagnose.workers.worker import Worker
from entangle_cli.errors import EntangleError
from entangle_cli.records.pair import RecordBatch

FAULTS = Path("faults")
"""A folder in the working directory. The file with a row's index as its name holds `once`, for a kill, or `bug`."""


class FaultyWorker(Worker):
    """Dies or fails on the rows that the test's folder names."""

    async def measure(self, rows: Sequence[PreparedRow]) -> RecordBatch | EntangleError:
        for row in rows:
            fault = FAULTS / str(row.pair.index)
            if not fault.exists():
                continue
            if fault.read_text() == "bug":
                raise RuntimeError("CUDA error: device-side assert triggered")
            fault.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().measure(rows)


class SlowWorker(Worker):
    """Takes its time, and leaves a file with the number of its process when it has measured a batch."""

    async def measure(self, rows: Sequence[PreparedRow]) -> RecordBatch | EntangleError:
        time.sleep(0.2)
        found = await super().measure(rows)
        Path(f"measured-{os.getpid()}").touch()
        return found
