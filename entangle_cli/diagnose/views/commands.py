"""Commands to copy: a run, its model, its data and its loss as words of a shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entangle_cli.records.measuring_options import option_words
from entangle_cli.records.run import Run
from entangle_cli.records.settings import DEFAULT_LENGTH, LossSettings


class CommandNames:
    """Names for commands, quoted for a shell: as the scan's command line had them, or placeholders.

    Attributes:
        run: the run's folder.
        seen: the run under its present loss.
        model, data: what was measured.
        measured: model and data with the options that decide tokens and weights.
        loss: the loss as options, after a blank, for a command that starts from DPO; empty for DPO.
        forecast: the command that forecasts, without its loss.
        num_rows: rows of the data; None if unknown.
        suffix: of a file with the same format as the data.
    """

    def __init__(self, run: Run) -> None:
        plan = run.manifest.get("plan", {})
        scanned = LossSettings(**run.manifest["loss"]) if "loss" in run.manifest else run.loss
        self.run = "RUN" if run.folder is None else shlex.quote(str(run.folder))
        self.seen = self.run + _other_loss(run.loss, scanned)
        self.model = _quoted(plan.get("model"), "MODEL")
        # Several data sets are one text in the plan.
        self.data = "DATA" if run.identity.sources else _quoted(plan.get("data"), "DATA")
        self.measured = f"{self.model} {self.data}{_length(plan)}{option_words(plan.get('options'))}"
        self.loss = _other_loss(run.loss, LossSettings())
        self.forecast = f"entangle forecast {self.measured}"
        self.num_rows = run.identity.num_rows
        self.suffix = "".join(Path(run.identity.data_name).suffixes[-1:]) or ".jsonl"


def tokens_command(run: Run, row: int) -> str | None:
    """The command that shows a pair token by token; None for an adapter that does not exist yet."""
    if "planned_adapter" in run.identity.model:
        return None
    names = CommandNames(run)
    return f"entangle tokens {names.measured} --row {row}{names.loss}"


def loss_options(numbers: Mapping[str, float]) -> str:
    """Numbers of a loss as options of a command, each after a blank."""
    words = []
    for name, value in numbers.items():
        words.append(f"--{name} {value:g}" if name in {"beta", "gamma"} else f"--loss-option {name}={value:g}")
    return "".join(f" {word}" for word in words)


def _other_loss(loss: LossSettings, usual: LossSettings) -> str:
    if loss == usual:
        return ""
    beta = {} if loss.beta == LossSettings().beta else {"beta": loss.beta}
    return f" --loss {loss.name}{loss_options({**beta, **loss.options})}"


def _quoted(name: str | None, placeholder: str) -> str:
    """A name for a shell; a placeholder for what came from memory or from standard input."""
    return placeholder if not name or name == "-" or name.endswith("in memory") else shlex.quote(name)


def _length(plan: Mapping[str, Any]) -> str:
    """The option of a length that is not the default one."""
    length, context = plan.get("max_length"), plan.get("context")
    if length is None:
        return " --max-length 0" if "max_length" in plan else ""
    return "" if length == min(DEFAULT_LENGTH, context or DEFAULT_LENGTH) else f" --max-length {length}"
