"""`Run`: pairs that were measured, seen under a loss, as one object for notebooks and commands alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, overload

from entangle_cli.errors import UsageError
from entangle_cli.records import run as stored
from entangle_cli.records.columns import FIELD_NAMES, Columns, rows_of, taken
from entangle_cli.records.pair import PairRecord, Status
from entangle_cli.records.settings import LossSettings, ReportFormat

if TYPE_CHECKING:
    import pandas

    from entangle_cli.analysis.gate import Verdict

NUM_WORST = 5
NUM_SKIPPED = 5
PAGE_ROWS = 100
"""Worst pairs and skipped rows that a page lists."""


class Run(stored.Run, Sequence[PairRecord]):
    """Pairs that were measured, under a loss: a sequence of `PairRecord` in the order of the data.

    Made by `scan` and `read`.

    Attributes:
        folder: where it is stored; None for one that is only in memory.
        manifest: what is known of the scan, JSON-able.
        columns: what was measured, by field, as numpy arrays; see `all_columns`.
        loss: what movements are computed under.
    """

    def under(self, loss: str | LossSettings, **numbers: float) -> Run:
        """The same pairs under another loss; nothing is measured again.

        Args:
            loss: a name such as `simpo`, or settings.
            numbers: the loss's numbers by name, such as `beta=2.0`.
        Raises:
            UsageError: an unknown loss, or a number that it does not have.
        """
        if isinstance(loss, str):
            beta = numbers.pop("beta", LossSettings().beta)
            loss = LossSettings(loss, beta, numbers)
        elif numbers:
            raise UsageError("LossSettings and further numbers", "one of the two", "put the numbers into LossSettings")
        check_loss(loss)
        return replace(self, loss=loss)

    @cached_property
    def all_columns(self) -> Columns:
        """What was measured and what the loss makes of it, by field, as numpy arrays."""
        from entangle_cli.diagnose.views.movements import with_movements

        return with_movements(self.columns, self.loss, self.identity.dtype)

    @cached_property
    def notices(self) -> Sequence[stored.Notice]:
        """What a user should know beside the numbers."""
        from entangle_cli.diagnose.views.notices import run_notices

        return run_notices(self.manifest, self.columns)

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """The aggregates, JSON-able, as in the run document."""
        from entangle_cli.diagnose.views.movements import run_summary
        from entangle_cli.store.reading import read_layers

        summary = run_summary(self.all_columns, self.loss, read_layers(self), self.identity.sources)
        return {**summary, "notices": [asdict(notice) for notice in self.notices]}

    @property
    def verdict(self) -> str:
        """What the pairs do under the loss, in one sentence."""
        from entangle_cli.report.terminal import verdict_sentence

        return verdict_sentence(self.summary, self.loss_words)

    @property
    def loss_words(self) -> str:
        """The loss with every number that it has."""
        from entangle_cli.diagnose.views.movements import describe_loss

        return describe_loss(self.loss)

    def __len__(self) -> int:
        return len(self.columns["index"])

    @overload
    def __getitem__(self, place: int) -> PairRecord: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[PairRecord]: ...
    def __getitem__(self, place: int | slice) -> PairRecord | Sequence[PairRecord]:
        if isinstance(place, slice):
            return [PairRecord(**row) for row in rows_of(taken(self.all_columns, place))]
        if not -len(self) <= place < len(self):
            raise IndexError(f"pair {place} of {len(self):,}")
        return self[place % len(self) : place % len(self) + 1][0]

    def __iter__(self) -> Iterator[PairRecord]:
        return (PairRecord(**row) for row in rows_of(self.all_columns))

    def pair(self, row: int, pair_in_row: int | None = None) -> PairRecord:
        """The pair of a row of the data, by its `index`.

        Args:
            pair_in_row: which pair of a ranked row; None for the first.
        Raises:
            UsageError: the run has no such row.
        """
        import numpy as np

        places = np.flatnonzero(self.columns["index"] == row)
        if pair_in_row is not None:
            places = places[self.columns["pair_in_row"][places] == pair_in_row]
        if not len(places):
            raise UsageError(f"row {row}", f"a row that {self.place} holds", "see its `index` column")
        return self[int(places[0])]

    def worst(self, count: int = NUM_WORST) -> list[PairRecord]:
        """The measured pairs with the smallest slack, smallest first, then with the largest cosine."""
        return [PairRecord(**row) for row in self.worst_rows(count)]

    def worst_rows(self, count: int) -> list[dict[str, Any]]:
        """`worst` as plain rows."""
        return list(rows_of(taken(self.all_columns, worst_places(self.all_columns, count))))

    def losses(self) -> dict[str, Any]:
        """The measured pairs under every loss, and what would let more of them separate, JSON-able."""
        from entangle_cli.diagnose.views.movements import losses_compared

        return losses_compared(self.all_columns, self.loss, self.identity.dtype)

    def gate(self, *rules: str, **options: Any) -> Verdict:
        """The verdict of rules such as `both_fall_rate > 0.1`; see `entangle_cli.gate`."""
        from entangle_cli.api.judging import gate

        return gate(self, rules, **options)

    def to_pandas(self) -> pandas.DataFrame:
        """All pairs as a data frame, a column for each field.

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
            UsageError: another format.
        """
        stream = StringIO()
        self.write_report(stream, output_format)
        return stream.getvalue()

    def write_report(self, stream: IO[str], output_format: str = "terminal", rules: Sequence[str] = ()) -> None:
        """Write the report.

        Args:
            rules: what a gate would say; in html and markdown.
        Raises:
            UsageError: another format, or a rule that cannot be.
        """
        from entangle_cli.report import rows
        from entangle_cli.report.terminal import console_for

        match output_format:
            case "terminal":
                console_for(stream).print(self.rendered())
            case "html":
                self._write_page(stream, rules)
            case "markdown":
                self._write_markdown(stream, rules)
            case "json":
                rows.write_document(stream, self, self.all_columns, self.summary)
            case "jsonl":
                rows.write_json_lines(stream, self.all_columns)
            case "csv":
                rows.write_csv(stream, self.all_columns)
            case _:
                raise UsageError(f"report format {output_format!r}", f"one of {', '.join(ReportFormat)}", "choose one")

    def rendered(self) -> Any:
        """The terminal report, as rich renders it."""
        from entangle_cli.report.terminal import summary_report

        return summary_report(
            self, self.summary, self.worst_rows(NUM_WORST), self._skipped(NUM_SKIPPED), self.notices, self.loss_words
        )

    def _write_page(self, stream: IO[str], rules: Sequence[str]) -> None:
        from entangle_cli.diagnose.views.page_data import page_data
        from entangle_cli.report.html import write_report_page

        write_report_page(
            stream,
            self,
            self.summary,
            self.loss_words,
            self.notices,
            self.worst_rows(PAGE_ROWS),
            self._skipped(PAGE_ROWS),
            self.losses(),
            page_data(self.all_columns, self.loss, self.identity.dtype),
            self._verdict_of(rules),
        )

    def _write_markdown(self, stream: IO[str], rules: Sequence[str]) -> None:
        from entangle_cli.report.markdown import write_report_markdown

        worst = self.worst_rows(NUM_WORST)
        write_report_markdown(stream, self, self.summary, self.loss_words, self.notices, worst, self._verdict_of(rules))

    def _verdict_of(self, rules: Sequence[str]) -> Verdict | None:
        from entangle_cli.analysis.gate import judge
        from entangle_cli.analysis.rules import parse_rule

        return judge([parse_rule(text) for text in rules], self.all_columns) if rules else None

    def _skipped(self, count: int) -> list[dict[str, Any]]:
        import numpy as np

        places = np.flatnonzero(self.all_columns["status"] != Status.OK.value)[:count]
        return list(rows_of(taken(self.all_columns, places)))

    def __repr__(self) -> str:
        return f"<Run: {self.identity.model_name} on {self.identity.data_name}, {len(self):,} rows. {self.verdict}>"

    def _repr_html_(self) -> str:
        from entangle_cli.report.notebook import notebook_html

        return notebook_html(self, self.summary, self.verdict)


def worst_places(columns: Columns, count: int) -> Any:
    """Places of the measured pairs with the smallest slack, smallest first, then with the largest cosine."""
    import numpy as np

    measured = np.flatnonzero(columns["status"] == Status.OK.value)
    slack = np.where(np.isnan(columns["slack"][measured]), np.inf, columns["slack"][measured])
    return measured[np.lexsort((-columns["cosine"][measured], slack))[:count]]


def newest_folder() -> tuple[Path, list[Path]]:
    """The newest run below `entangle-runs/` that holds a measured pair, and newer ones without any.

    Raises:
        RunError: no run holds a measured pair.
    """
    from entangle_cli.store.reading import newest_run

    return newest_run()


def read(folder: str | Path | None = None) -> Run:
    """A run that was written by `scan`, under the loss that it was scanned with.

    Args:
        folder: None for the newest below `entangle-runs/` that holds a measured pair.
    Raises:
        RunError: no run there, or one that is damaged or lacks rows.
    """
    from entangle_cli.diagnose.views.whole_run import refuse_missing_rows
    from entangle_cli.store.reading import read_run

    run = read_run(newest_folder()[0] if folder is None else Path(folder))
    refuse_missing_rows(run)
    return Run(run.folder, run.manifest, run.columns, run.loss)


def merge_runs(folders: Sequence[Path], output: Path) -> Path:
    """Write the run that the runs of all shards of one scan add up to.

    Raises:
        EntangleError: one cannot be read or is not complete, they are not of one scan, or the output is not new.
    """
    from entangle_cli.store.merging import merge_runs as merge

    return merge(folders, output)


def check_loss(loss: LossSettings) -> None:
    """Refuse a loss before anything is computed for it.

    Raises:
        UsageError: an unknown loss, a beta that is not positive, or an option that it does not have.
    """
    from entangle_cli.diagnose.views.movements import check_loss as check

    check(loss)
