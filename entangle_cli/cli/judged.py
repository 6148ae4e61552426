"""What report, gate and the end of a scan share: a run read back, seen under a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import RenderableType

from entangle_cli.analysis.gate import judge
from entangle_cli.analysis.rules import Rule, is_relative, parse_rule
from entangle_cli.cli.config import Origins
from entangle_cli.cli.tell import tell
from entangle_cli.diagnose.views.movements import describe_loss, losses_compared, run_summary, with_movements
from entangle_cli.diagnose.views.notices import run_notices
from entangle_cli.diagnose.views.whole_run import refuse_missing_rows
from entangle_cli.errors import UsageError
from entangle_cli.records import LossSettings, Notice, Run, Status
from entangle_cli.report.rows import rows
from entangle_cli.report.terminal import summary_report
from entangle_cli.store.reading import newest_run, read_layers, read_run

NUM_WORST = 5
NUM_SKIPPED = 5
PAGE_WORST = 100


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """A run with everything that a loss makes of it."""

    run: Run
    loss: LossSettings
    columns: Mapping[str, Any]
    summary: Mapping[str, Any]
    notices: Sequence[Notice]

    def report(self) -> RenderableType:
        """The terminal report."""
        return summary_report(
            self.run,
            self.summary,
            worst_rows(self.columns, NUM_WORST),
            list(rows(_taken(self.columns, _skipped_places(self.columns)))),
            self.notices,
            describe_loss(self.loss),
        )

    def write_page(self, stream: IO[str], rules: Sequence[Rule]) -> None:
        """The report as a page of its own."""
        from entangle_cli.diagnose.views.page_data import page_data
        from entangle_cli.report.html import write_report_page

        write_report_page(
            stream,
            self.run,
            self.summary,
            describe_loss(self.loss),
            self.notices,
            worst_rows(self.columns, PAGE_WORST),
            list(rows(_taken(self.columns, _skipped_places(self.columns, PAGE_WORST)))),
            losses_compared(self.columns, self.loss, self.dtype),
            page_data(self.columns, self.loss, self.dtype),
            judge(rules, self.columns) if rules else None,
        )

    def write_markdown(self, stream: IO[str], rules: Sequence[Rule]) -> None:
        """The report for a pull request's comment."""
        from entangle_cli.report.markdown import write_report_markdown

        write_report_markdown(
            stream,
            self.run,
            self.summary,
            describe_loss(self.loss),
            self.notices,
            worst_rows(self.columns, NUM_WORST),
            judge(rules, self.columns) if rules else None,
        )

    @property
    def dtype(self) -> str:
        """What the run was computed in."""
        return str(self.run.manifest["identity"]["settings"]["dtype"])


def read_judged(
    folder: Path | None, choose_loss: Callable[[LossSettings], LossSettings], *, with_layers: bool = False
) -> JudgedRun:
    """Read a run and see it under a loss, which is chosen knowing the one that it was scanned with.

    Args:
        with_layers: whether the summary has the run's layers.
    """
    run = read_run(folder or _newest())
    refuse_missing_rows(run)
    loss = choose_loss(LossSettings(**run.manifest["loss"]))
    columns = with_movements(run.columns, loss, run.manifest["identity"]["settings"]["dtype"])
    notices = run_notices(run.manifest, columns)
    sources = run.manifest["identity"]["data"].get("sources", ())
    summary = run_summary(columns, loss, read_layers(run) if with_layers else (), sources)
    return JudgedRun(run, loss, columns, {**summary, "notices": [asdict(notice) for notice in notices]}, notices)


def _newest() -> Path:
    """The newest run that holds a pair, named on standard error: nobody else says which run is meant."""
    folder, empty = newest_run()
    tell(f"run {folder}" + "".join(f"; newer, but without a measured pair: {path}" for path in empty))
    return folder


def worst_places(columns: Mapping[str, Any], count: int = NUM_WORST) -> Any:
    """Places of the measured pairs with the smallest slack, smallest first, then with the largest cosine."""
    measured = np.flatnonzero(columns["status"] == Status.OK.value)
    slack = np.where(np.isnan(columns["slack"][measured]), np.inf, columns["slack"][measured])
    return measured[np.lexsort((-columns["cosine"][measured], slack))[:count]]


def worst_rows(columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """The measured pairs to look at first, as rows."""
    return list(rows(_taken(columns, worst_places(columns, count))))


def _skipped_places(columns: Mapping[str, Any], count: int = NUM_SKIPPED) -> Any:
    return np.flatnonzero(columns["status"] != Status.OK.value)[:count]


def _taken(columns: Mapping[str, Any], places: Any) -> dict[str, Any]:
    return {name: column[places] for name, column in columns.items()}


def only_new(columns: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of a run whose pairs a baseline did not measure; rows without a pair are new."""
    measured = baseline["status"] == Status.OK.value
    known = {pair_id for pair_id in baseline["pair_id"][measured] if pair_id is not None}
    return _taken(columns, np.array([pair_id not in known for pair_id in columns["pair_id"]], dtype=bool))


def parse_rules(texts: Sequence[str] | None, origins: Origins | None = None) -> list[Rule]:
    """The rules of `--fail-if`, refused before anything is computed."""
    where = (origins or Origins()).of("fail-if")
    return [parse_rule(text, where) for text in texts or []]


def refuse_relative(rules: Sequence[Rule]) -> None:
    """Refuse rules over a baseline where there is none.

    Raises:
        UsageError: there is such a rule.
    """
    for rule in rules:
        if is_relative(rule):
            raise UsageError(
                f"--fail-if {rule.text!r} without a baseline",
                "a run to compare with",
                "give --baseline to entangle gate",
            )
