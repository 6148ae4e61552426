"""Tokenises rows in processes of Ray, for workers that are faster together than one process can tokenise."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from entangle_cli.data.checkpoint import quiet_libraries
from entangle_cli.data.pairs import PairReader
from entangle_cli.data.rows import RawRow
from entangle_cli.data.tokenizer import TokenizerOfModel, tokenizer_of_model
from entangle_cli.diagnose.scan.row_preparation import RowPreparation, Window
from entangle_cli.diagnose.workers.deaths import reason_of
from entangle_cli.diagnose.workers.worker import returning_errors
from entangle_cli.errors import EntangleError, UnfinishedError
from entangle_cli.records.model_description import ModelDescription
from entangle_cli.records.settings import ReadingSettings, ScanSettings

ROWS_PER_CALL = 64
CALLS_AHEAD = 3
"""Calls per process that are under way or done and not yet taken."""
MOST_RETRIES = 3


class Tokenizing:
    """Runs in a process of Ray. Errors that the user can fix are returned, because Ray would wrap them.

    Args:
        model: the checkpoint whose tokenizer to use.
        limits: the model's limits.
        files: source files of the rows.
        readings: see `PairReader`.
        folder: the working directory of the command, for relative paths.
    """

    def __init__(
        self,
        model: str,
        limits: ModelDescription,
        files: Sequence[Path],
        readings: Sequence[ReadingSettings],
        settings: ScanSettings,
        folder: Path,
    ) -> None:
        os.chdir(folder)
        with quiet_libraries():
            tokenizer = tokenizer_with_limits(model, limits, settings)
        self._prepared = RowPreparation(PairReader(settings.reading, files, readings), tokenizer, settings)

    def prepare(self, rows: Sequence[RawRow]) -> list[Window] | EntangleError:
        """The pairs of each row."""
        return returning_errors(lambda: list(self._prepared(rows)))


def tokenizer_with_limits(model: str, limits: ModelDescription, settings: ScanSettings) -> TokenizerOfModel:
    """The tokenizer of a checkpoint, with the limits that its worker found."""
    return replace(
        tokenizer_of_model(model, settings.loading),
        position_limit=limits.position_limit,
        context=limits.context,
        num_embeddings=limits.num_embeddings,
    )


class TokenizingProcesses:
    """Several processes that tokenise. Calling it is a `Preparation`.

    Args:
        processes: Ray's handles of `Tokenizing`.
    """

    def __init__(self, processes: Sequence[Any]) -> None:
        self._processes = processes

    def __call__(self, rows: Iterable[RawRow]) -> Iterator[Window]:
        """The pairs of each row, in order. A few calls per process are under way.

        Raises:
            ModelError: a row is a conversation and the tokenizer has no chat template.
            UnfinishedError: the processes died again and again.
        """
        under_way: deque[Any] = deque()
        remaining = iter(rows)
        for process in cycle(self._processes):
            if chunk := list(islice(remaining, ROWS_PER_CALL)):
                under_way.append(process.prepare.remote(chunk))
            if not under_way:
                return
            if not chunk or len(under_way) >= CALLS_AHEAD * len(self._processes):
                yield from _result(under_way.popleft())


def start_tokenizing(
    number: int, model: str, limits: ModelDescription, pairs: PairReader, settings: ScanSettings
) -> TokenizingProcesses:
    """Start processes that tokenise, on this machine. Ray starts one that died again, and repeats its call."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(Tokenizing).options(
        num_cpus=0, max_restarts=-1, max_task_retries=MOST_RETRIES, scheduling_strategy=here
    )
    reading = (list(pairs.files), list(pairs.readings))
    processes = [remote.remote(model, limits, *reading, settings, Path.cwd()) for _ in range(number)]
    return TokenizingProcesses(processes)


def _result(call: Any) -> list[Window]:
    import ray

    try:
        found: list[Window] | EntangleError = ray.get(call)
    except ray.exceptions.RayError as error:
        raise UnfinishedError(
            f"a process that tokenises died: {reason_of(error)}",
            "rows that can be tokenised",
            "rerun the same command with --workers 1, which tokenises in the main process",
        ) from error
    if isinstance(found, EntangleError):
        raise found
    return found
