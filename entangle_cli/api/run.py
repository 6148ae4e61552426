"""`Run`: measured pairs under a loss, for notebooks and commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from io import StringIO
from pathlib import Path
from shlex import quote
from typing import IO, TYPE_CHECKING, Any, overload

from entangle_cli.errors import RunError, UsageError
from entangle_cli.records import run as stored
from entangle_cli.records.columns import FIELD_NAMES, Columns, rows_of, taken
from entangle_cli.records.overview import NextStep, Overview, Reason
from entangle_cli.records.pair import PairRecord, Status
from entangle_cli.records.settings import LossSettings
from entangle_cli.records.words import counted

if TYPE_CHECKING:
    import pandas

    from entangle_cli.analysis.gate import Verdict

NUM_WORST = 5
"""Worst pairs that a summary holds."""


class Run(stored.Run, Sequence[PairRecord]):
    """Measured pairs under a loss: a sequence of `PairRecord` in the order of the data.

    Created by `scan` and `read`.

    Attributes:
        folder: folder of the run; None if it is only in memory.
        manifest: description of the scan, JSON-able.
        columns: measured values by field, as numpy arrays; see `all_columns`.
        loss: the loss used to compute movements.
    """

    def under(self, loss: str | LossSettings, **numbers: float) -> Run:
        """The same pairs under another loss, without a new measurement.

        Args:
            loss: a name such as `simpo`, or settings.
            numbers: beta and options of the loss by name, such as `beta=2.0`.
        Raises:
            UsageError: the loss is unknown, or does not have one of the options.
        """
        if isinstance(loss, str):
            beta = numbers.pop("beta", LossSettings().beta)
            loss = LossSettings(loss, beta, numbers)
        elif numbers:
            raise UsageError("LossSettings and extra numbers", "one of the two", "put the numbers into LossSettings")
        check_loss(loss)
        return replace(self, loss=loss)

    @cached_property
    def all_columns(self) -> Columns:
        """Measured values, and values computed under the loss, by field as numpy arrays."""
        from entangle_cli.diagnose.views.movements import with_movements

        return with_movements(self.columns, self.loss, self.identity.dtype)

    @cached_property
    def notices(self) -> Sequence[stored.Notice]:
        """Warnings and notes about the run."""
        from entangle_cli.diagnose.views.notices import run_notices

        return run_notices(self.manifest, self.columns)

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """The aggregates, JSON-able, as in the run document."""
        from entangle_cli.diagnose.views.movements import run_summary
        from entangle_cli.store.reading import read_layers

        summary = run_summary(self.all_columns, self.loss, read_layers(self), self.identity.sources)
        return {**summary, "notices": [asdict(notice) for notice in self.notices]}

    @cached_property
    def reasons(self) -> Sequence[Reason]:
        """Why pairs go the wrong way under the loss, the most telling reason first; empty where none does."""
        from entangle_cli.analysis.reasons import run_reasons

        return run_reasons(self.all_columns, self.summary["layers"])

    @cached_property
    def next_steps(self) -> Sequence[NextStep]:
        """What can be done about it: measured consequences, each with a command."""
        from entangle_cli.diagnose.views.next_steps import next_steps

        codes = [reason.code for reason in self.reasons]
        worst = next(iter(self.worst_rows(1)), None)
        return next_steps(self, self.summary, self.losses(), codes, worst)

    @cached_property
    def overview(self) -> Overview:
        """Verdict, shares, reasons, worst pairs, notices and next steps: what every report leads with."""
        return self.overview_of(NUM_WORST)

    def overview_of(self, num_worst: int) -> Overview:
        """`overview` with another number of worst pairs."""
        from entangle_cli.diagnose.views.overview import overview

        worst = self.worst_rows(num_worst)
        notices = [*self.notices, *self._notices_of_siblings()]
        return overview(self, self.summary, self.reasons, worst, notices, self.next_steps)

    def _notices_of_siblings(self) -> Iterator[stored.Notice]:
        """What the run of all weights says, beside the run of a planned adapter."""
        from entangle_cli.store.siblings import run_with_all_weights

        if (folder := run_with_all_weights(self)) is None:
            return
        with suppress(RunError):  # another run may be damaged; this report is about this one
            whole = read(folder).under(self.loss)
            words = f"with all weights: {whole.verdict} entangle compare {quote(str(folder))} {self.command_words}"
            yield stored.Notice("W-ALL-WEIGHTS", words)

    @property
    def verdict(self) -> str:
        """What the pairs do under the loss, in one sentence."""
        from entangle_cli.diagnose.views.overview import movement_counts, verdict

        return verdict(movement_counts(self.summary), self.summary["pairs"])

    @property
    def loss_words(self) -> str:
        """The loss with beta and options, in words."""
        from entangle_cli.diagnose.views.movements import describe_loss

        return describe_loss(self.loss)

    @property
    def command_words(self) -> str:
        """The run under its loss, as words of a command."""
        from entangle_cli.diagnose.views.commands import CommandNames

        return CommandNames(self).seen

    def __len__(self) -> int:
        return len(self.columns["index"])

    @overload
    def __getitem__(self, position: int) -> PairRecord: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[PairRecord]: ...
    def __getitem__(self, position: int | slice) -> PairRecord | Sequence[PairRecord]:
        if isinstance(position, slice):
            return [PairRecord(**row) for row in rows_of(taken(self.all_columns, position))]
        if not -len(self) <= position < len(self):
            raise IndexError(f"pair {position} of {len(self):,}")
        return self[position % len(self) : position % len(self) + 1][0]

    def __iter__(self) -> Iterator[PairRecord]:
        return (PairRecord(**row) for row in rows_of(self.all_columns))

    def pair(self, row: int, pair_in_row: int | None = None) -> PairRecord:
        """The pair in a row of the data, by the row's `index`.

        Args:
            pair_in_row: number of the pair in a ranked row; None for the first.
        Raises:
            UsageError: the run does not hold this row or pair.
        """
        import numpy as np

        positions = np.flatnonzero(self.columns["index"] == row)
        if pair_in_row is not None:
            positions = positions[self.columns["pair_in_row"][positions] == pair_in_row]
        if not len(positions):
            name = f"row {row}" if pair_in_row is None else f"row {row}, pair {pair_in_row}"
            raise UsageError(name, f"a row and pair in {self.place}", "choose a value of the `index` column")
        return self[int(positions[0])]

    def pair_document(
        self,
        row: int | None = None,
        *,
        line: int | None = None,
        pair_in_row: int | None = None,
        data: str | Path | None = None,
    ) -> dict[str, Any]:
        """One pair in numbers and words, JSON-able: its fields, why it moves as it does, and its text.

        Args:
            row: its `index`; None to find it by line.
            line: its line in the data file, from 1.
            pair_in_row: which pair of a ranked row; None for the first.
            data: where to read the text of a run that was scanned without it.
        Raises:
            UsageError: the run has no such pair, or was scanned from other data.
            DataError: the data no longer hold the pair.
        """
        from entangle_cli.diagnose.views.one_pair import pair_document

        place = None if data is None else str(data)
        return pair_document(self, self.all_columns, row, line, pair_in_row, place)

    def tokens_command(self, row: int) -> str | None:
        """The command that shows a pair token by token; None for an adapter that does not exist yet."""
        from entangle_cli.diagnose.views.commands import tokens_command

        return tokens_command(self, row)

    def worst(self, count: int = NUM_WORST) -> list[PairRecord]:
        """The measured pairs with the smallest slack, smallest first, then with the largest cosine.

        Raises:
            UsageError: the number is negative.
        """
        if count < 0:
            raise UsageError(f"worst({count})", "a number of pairs from 0", f"ask for worst({-count})")
        return [PairRecord(**row) for row in self.worst_rows(count)]

    def worst_rows(self, count: int) -> list[dict[str, Any]]:
        """`worst` as plain rows."""
        return list(rows_of(taken(self.all_columns, worst_places(self.all_columns, count))))

    def losses(self) -> dict[str, Any]:
        """The measured pairs under every loss, and what would let more of them separate, JSON-able."""
        return self._losses

    @cached_property
    def _losses(self) -> dict[str, Any]:
        from entangle_cli.diagnose.views.movements import losses_compared

        return losses_compared(self.all_columns, self.loss, self.identity.dtype)

    def gate(self, *rules: str, **options: Any) -> Verdict:
        """The verdict of rules such as `both_fall_rate > 0.1`; see `entangle_cli.gate`."""
        from entangle_cli.api.judging import gate

        return gate(self, rules, **options)

    def to_pandas(self) -> pandas.DataFrame:
        """All pairs as a data frame with one column per field.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UsageError("to_pandas without pandas", "the package pandas", "pip install pandas") from error
        return pandas.DataFrame(rows_of(self.all_columns), columns=[*FIELD_NAMES])

    def report(self, output_format: str = "terminal") -> str:
        """The report as text: `terminal`, `html`, `markdown`, `json`, `jsonl` or `csv`.

        Raises:
            UsageError: the format is unknown.
        """
        stream = StringIO()
        self.write_report(stream, output_format)
        return stream.getvalue()

    def write_report(
        self, stream: IO[str], output_format: str = "terminal", rules: Sequence[str] = (), *, verbose: bool = False
    ) -> None:
        """Write the report.

        Args:
            rules: what a gate would say; in html and markdown.
            verbose: every number in the terminal's report.
        Raises:
            UsageError: the format is unknown, or a rule is invalid.
        """
        from entangle_cli.api.reporting import write_report

        write_report(self, stream, output_format, rules, verbose=verbose)

    def rendered(self, *, verbose: bool = False) -> Any:
        """The terminal report, as rich renders it.

        Args:
            verbose: with every number that the summary leaves out.
        """
        from entangle_cli.api.reporting import rendered

        return rendered(self, verbose=verbose)

    def __repr__(self) -> str:
        rows = counted(len(self), "row")
        return f"<Run: {self.identity.model_name} on {self.identity.data_name}, {rows}. {self.verdict}>"

    def _repr_html_(self) -> str:
        from entangle_cli.report.notebook import notebook_html

        return notebook_html(self, self.summary, self.verdict)


def worst_places(columns: Columns, count: int) -> Any:
    """Positions of the worst measured pairs: smallest slack first, then largest cosine."""
    import numpy as np

    measured = np.flatnonzero(columns["status"] == Status.OK.value)
    slack = np.where(np.isnan(columns["slack"][measured]), np.inf, columns["slack"][measured])
    return measured[np.lexsort((-columns["cosine"][measured], slack))[:count]]


def newest_folder() -> tuple[Path, list[Path]]:
    """The newest run in `entangle-runs/` with a measured pair, and all newer runs without one.

    Raises:
        RunError: no run holds a measured pair.
    """
    from entangle_cli.store.reading import newest_run

    return newest_run()


def read(folder: str | Path | None = None) -> Run:
    """Read a run written by `scan`, under the loss of its scan.

    Args:
        folder: folder of the run; None for the newest in `entangle-runs/` with a measured pair.
    Raises:
        RunError: there is no run, or it is damaged or lacks rows.
    """
    from entangle_cli.diagnose.views.whole_run import refuse_missing_rows
    from entangle_cli.store.reading import read_run

    run = read_run(newest_folder()[0] if folder is None else Path(folder))
    refuse_missing_rows(run)
    return Run(run.folder, run.manifest, run.columns, run.loss)


def merge_runs(folders: Sequence[Path], output: Path) -> Path:
    """Merge the runs of all shards of one scan and write the result.

    Raises:
        EntangleError: a run cannot be read or is not complete, the runs are not shards of one scan, or the output
            already exists.
    """
    from entangle_cli.store.merging import merge_runs as merge

    return merge(folders, output)


def check_loss(loss: LossSettings) -> None:
    """Check a loss before anything is computed for it.

    Raises:
        UsageError: the loss is unknown, beta is not positive, or the loss does not have one of the options.
    """
    from entangle_cli.diagnose.views.movements import check_loss as check

    check(loss)
