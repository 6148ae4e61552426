"""The workers of a scan, as the main process sees them: starts them, deals batches, and goes on when one dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from entangle_cli.data.pairs import PairReader
from entangle_cli.diagnose.scan.row_preparation import Preparation, RowPreparation
from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.diagnose.scan.scan import LostRow
from entangle_cli.diagnose.workers.dealer import Batch, Dealer
from entangle_cli.diagnose.workers.deaths import reason_of
from entangle_cli.diagnose.workers.sizing import Team
from entangle_cli.diagnose.workers.tokenizing import start_tokenizing, tokenizer_with_limits
from entangle_cli.diagnose.workers.worker import Opened
from entangle_cli.errors import EntangleError, UnfinishedError, UsageError
from entangle_cli.records.model_description import ModelDescription
from entangle_cli.records.pair import RecordBatch
from entangle_cli.records.settings import ScanSettings

if TYPE_CHECKING:
    from entangle_cli.diagnose.scan.estimate import Cost

POLL_SECONDS = 0.2
"""Longest wait without a look at signals. While batches are measured, control also returns to the caller."""
NOTICE_SECONDS = 20.0
"""Time without a worker after which the user is told."""
LOADING_RETRIES = 3
"""Times that the model is loaded again in a worker that died while loading it."""

Notify = Callable[[str], None]


@dataclass(slots=True)
class Member:
    """A worker in the pool."""

    number: int
    """From 1, for messages."""
    actor: Any
    """Ray's handle of a `Worker`."""
    opening: Any = None
    """Ray's reference to the result of `start` and then of `open`; None when the worker is ready."""
    failed_openings: int = 0
    """Deaths in a row while the model was loaded."""
    opened: Opened | None = None
    """The last result of `open`."""
    dead: Opened | None = None
    """The process that died last. It may answer for another moment."""
    measuring: dict[Any, Batch] = field(default_factory=dict)
    """The batches that it has, by Ray's reference to the result."""

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"worker {self.number}" + ("" if self.opened is None else f" on {self.opened.host}")


class WorkerPool:
    """The workers of a scan. It is a `ScanModel`.

    Args:
        actors: Ray's handles of the workers.
        team: what was started.
        notify: called with messages for the user.
    Raises:
        EntangleError: a worker cannot load the model.
    """

    def __init__(self, model: str, settings: ScanSettings, actors: Sequence[Any], team: Team, notify: Notify) -> None:
        self._model = model
        self._settings = settings
        self._team = team
        self._notify = notify
        self._dealer = Dealer(team.num_workers)
        self._members = [Member(number, actor) for number, actor in enumerate(actors, 1)]
        self._description: ModelDescription | None = None
        self._alone_since = time.monotonic()
        self._is_told = False
        for member in self._members:
            self._start(member)
        while not self._ready:
            for _ in self._arrived():
                pass

    @property
    def num_workers(self) -> int:
        """Number of workers."""
        return self._team.num_workers

    @property
    def _ready(self) -> list[Member]:
        """The workers that can measure, those with the fewest batches first."""
        ready = [member for member in self._members if member.opening is None]
        return sorted(ready, key=lambda member: len(member.measuring))

    @property
    def description(self) -> ModelDescription:
        """The model, as the worker that was ready first described it. All others must agree."""
        assert self._description is not None
        return self._description

    def preparation(self, pairs: PairReader, settings: ScanSettings) -> Preparation:
        """Tokenises pairs in this process, or for many workers in processes of Ray."""
        settings = replace(settings, loading=self._settings.loading)
        if self._team.num_tokenizers:
            return start_tokenizing(self._team.num_tokenizers, self._model, self.description, pairs, settings)
        return RowPreparation(pairs, tokenizer_with_limits(self._model, self.description, settings), settings)

    def records(self, batches: Iterable[Sequence[PreparedRow]]) -> Iterator[RecordBatch]:
        """The records of batches, as they arrive; see `ScanModel.records`.

        Raises:
            UnfinishedError: no worker is left, or workers die and measure nothing.
        """
        remaining = iter(batches)
        while True:
            if self._deal(remaining):
                yield RecordBatch(())
            elif self._ready and not any(member.measuring for member in self._members):
                return  # an idle worker got no batch: all are measured
            else:
                yield from self._arrived()

    def cost(self, longest: Sequence[PreparedRow], typical: Sequence[PreparedRow]) -> Cost:
        """What two batches cost on one worker, while the others do nothing.

        Raises:
            UnfinishedError: the worker died.
        """
        import ray

        member = self._ready[0]
        call = member.actor.cost.remote(longest, typical)
        while not ray.wait([call], timeout=POLL_SECONDS)[0]:
            pass
        try:
            found: Cost | EntangleError = ray.get(call)
        except ray.exceptions.RayError as error:
            raise UnfinishedError(
                f"{member.name} died: {reason_of(error)}",
                "memory for the longest pairs",
                "lower --max-length or --workers, or use --dtype bfloat16",
            ) from error
        if isinstance(found, EntangleError):
            raise found
        return found

    @property
    def lost_rows(self) -> Sequence[LostRow]:
        """Rows that were given up."""
        return self._dealer.lost

    def _deal(self, remaining: Iterator[Sequence[PreparedRow]]) -> bool:
        """Give batches to the workers that are ready. Returns True if a batch was empty, which asks for control."""
        is_dealing = True
        while is_dealing:
            is_dealing = False
            for member in self._ready:
                batch = self._dealer.next_batch(list(member.measuring.values()), remaining)
                if batch is None:
                    continue
                if not batch.rows:
                    return True
                member.measuring[member.actor.measure.remote(batch.rows)] = batch
                is_dealing = True
        return False

    def _arrived(self) -> Iterator[RecordBatch]:
        """Wait a moment for results. An empty one if nothing arrives."""
        import ray

        of_member = {reference: member for member in self._members for reference in member.measuring}
        of_member |= {member.opening: member for member in self._members if member.opening is not None}
        references = list(of_member)
        if not ray.wait(references, timeout=POLL_SECONDS)[0]:
            self._tell_of_a_long_wait()
            yield RecordBatch(())
            return
        for reference in ray.wait(references, num_returns=len(references), timeout=0)[0]:
            member = of_member[reference]
            if reference is member.opening:
                self._go_on_opening(member)
            elif reference in member.measuring:  # else the worker died a moment ago, and its batches were taken back
                yield self._result(member, reference)

    def _result(self, member: Member, reference: Any) -> RecordBatch:
        """The records of a batch; empty if it must be measured again."""
        import ray

        try:
            found: RecordBatch | EntangleError | None = ray.get(reference)
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.RayTaskError):
                # A bug, or a GPU in an unknown state. Only a new process is certain to be sound.
                ray.kill(member.actor, no_restart=False)
            self._replace(member, reason_of(error))
            return RecordBatch(())
        if found is None:
            self._dealer.take_back(list(member.measuring.values()))
            member.measuring.clear()
            self._start(member)
            return RecordBatch(())
        batch = member.measuring.pop(reference)
        if isinstance(found, EntangleError):
            self._dealer.failed(batch, found)
            return RecordBatch(())
        self._dealer.succeeded()
        return found

    def _replace(self, member: Member, reason: str) -> None:
        """Take back the batches of a worker that died, and load the model in the process that Ray starts for it."""
        batches = list(member.measuring.values())
        member.measuring.clear()
        self._notify(f"{member.name} died: {reason}; it is started again")
        member.dead = member.opened
        self._dealer.died(batches, reason)
        self._start(member)

    def _start(self, member: Member) -> None:
        """Wait until the worker has a process, then load the model in it."""
        # Until Ray has started a process again, a call fails. Ray repeats this one, which does nothing.
        member.opening = member.actor.start.options(max_task_retries=-1).remote()

    def _go_on_opening(self, member: Member) -> None:
        """Take the result of `start` or `open`. A worker that was ready before and cannot be now is left out.

        Raises:
            EntangleError: a worker cannot load the model, or loads another one than the others.
        """
        import ray

        found: Opened | EntangleError | None
        try:
            found = ray.get(member.opening)
        except ray.exceptions.RayError as error:
            member.failed_openings += 1
            if member.failed_openings <= LOADING_RETRIES:
                self._start(member)
                return
            found = UnfinishedError(
                f"{member.name} did not start: {reason_of(error)}",
                "memory for the model in every worker, and the same packages on every machine",
                "if memory ran out, lower --workers or use --dtype bfloat16; else see the reason",
            )
        if found is None:
            member.opening = member.actor.open.remote()
        elif isinstance(found, Opened) and member.dead is not None and found.process == member.dead.process:
            self._start(member)
        elif isinstance(found, Opened):
            member.opening, member.opened, member.failed_openings = None, found, 0
            self._alone_since = time.monotonic()
            self._description = self._description or found.model
            _refuse_other_model(member, self._description, found.model)
        elif self._description is None or len(self._members) == 1:
            raise found
        else:
            self._notify(f"{member.name} is left out: {found.found}")
            self._members.remove(member)

    def _tell_of_a_long_wait(self) -> None:
        if self._ready:
            self._alone_since, self._is_told = time.monotonic(), False
        elif not self._is_told and time.monotonic() - self._alone_since > NOTICE_SECONDS:
            self._is_told = True
            self._notify("no worker is ready yet: the model is still loading, or the cluster has no free GPUs or cores")


def _refuse_other_model(member: Member, first: ModelDescription, own: ModelDescription) -> None:
    names = ("identity", "reference_identity", "parameters", "versions")
    if different := [name for name in names if getattr(first, name) != getattr(own, name)]:
        raise UsageError(
            f"{member.name} does not match the others in: {', '.join(different)}",
            "the same model and the same packages on every machine",
            "check the files and the packages of that machine",
        )
