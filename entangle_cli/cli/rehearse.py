"""`entangle rehearse`: the first real steps of a training, for several losses, on a copy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from entangle_cli.cli.config import origins_of
from entangle_cli.cli.from_file import FromFile
from entangle_cli.cli.json_file import format_and_file, write_file
from entangle_cli.cli.lora import Lora, lora_settings
from entangle_cli.cli.option_groups import PairOptions, PolicyOptions, SampleOptions, scan_settings
from entangle_cli.cli.options import (
    Accumulate,
    Data,
    Debug,
    Device,
    DocumentFormat,
    Epochs,
    EvalSplit,
    FailIf,
    LrSchedulerType,
    MaxGradNorm,
    Model,
    Probe,
    ProbeGenerate,
    WarmupSteps,
    checked_epochs,
    refuse_split_alone,
)
from entangle_cli.cli.tell import tell
from entangle_cli.errors import ExitCode, UsageError
from entangle_cli.records.settings import LossSettings, RehearsalSettings, Schedule
from entangle_cli.records.words import counted

if TYPE_CHECKING:
    from entangle_cli.api.rehearsing import RehearsalObserver


class TrainingDtype(StrEnum):
    """Dtypes in which TRL trains float32 weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def rehearse(
    *,
    context: typer.Context,
    model: Model,
    data: Data,
    from_file: FromFile = None,
    losses: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LOSS,...",
            help="Losses, each at its customary settings or as NAME:beta=0.2; default: sigmoid, DPO's.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Real steps per loss.")] = 50,
    horizon: Annotated[
        int | None, typer.Option(min=1, help="Steps of the whole run, for its schedule; default: one epoch.")
    ] = None,
    epochs: Epochs = 1.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write or continue; default: one in entangle-runs/.")
    ] = None,
    fail_if: FailIf = None,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Learning rate, as in TRL.")] = 1e-6,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs per forward pass.")] = 8,
    accumulate: Accumulate = 1,
    lr_scheduler_type: LrSchedulerType = Schedule.LINEAR,
    warmup_steps: WarmupSteps = 0.0,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="Weight decay, as in Trainer.")] = 0.0,
    max_grad_norm: MaxGradNorm = 1.0,
    lora: Lora = None,
    held_out: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of DATA to leave out of the training and measure.")
    ] = 0.0,
    eval_data: Annotated[str | None, typer.Option(help="Held-out pairs to measure.")] = None,
    eval_split: EvalSplit = None,
    every: Annotated[
        int | None, typer.Option(min=1, help="Steps between two measurements; default: ten in all.")
    ] = None,
    probe_pairs: Annotated[int, typer.Option(min=1, help="Pairs to measure, drawn with --seed.")] = 64,
    probe: Probe = None,
    probe_generate: ProbeGenerate = None,
    sample: SampleOptions,
    pairs: PairOptions,
    dtype: Annotated[
        TrainingDtype, typer.Option(help="Dtype of the training; bfloat16 is autocast, TRL's default on a GPU.")
    ] = TrainingDtype.FLOAT32,
    device: Device = "auto",
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="Recompute activations to save memory.")
    ] = False,
    output_format: Annotated[DocumentFormat, typer.Option("--format", help="What to write to stdout.")] = (
        DocumentFormat.TERMINAL
    ),
    write: Annotated[
        list[str] | None,
        typer.Option("--write", metavar="FORMAT=FILE", help="Also write the rehearsal in this format. Repeatable."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors and a gate's failure.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Take the first real steps of your training on a copy, for several losses, with TRL's trainers."""
    from entangle_cli import api
    from entangle_cli.cli.verdict import CODES, keeping

    origin = origins_of(context).of("fail-if")
    rules = [api.parsed_rehearsal_rule(text, origin) for text in fail_if or ()]
    inputs = pairs.inputs(model, *data, eval_data, probe)
    files = [format_and_file(text, DocumentFormat, "html=rehearsal.html", *inputs) for text in write or []]
    if output_format is DocumentFormat.HTML and sys.stdout.isatty():
        raise UsageError("--format html on a terminal", "a file for the page", "give --write html=rehearsal.html")
    refuse_split_alone(eval_split, eval_data)
    training = RehearsalSettings(
        losses=tuple(_loss(text) for text in ",".join(losses or ["sigmoid"]).split(",")),
        steps=steps,
        horizon=horizon,
        epochs=checked_epochs(epochs),
        learning_rate=learning_rate,
        lr_scheduler_type=lr_scheduler_type.value,
        warmup_steps=warmup_steps,
        batch_size=batch_size,
        accumulate=accumulate,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm or None,
        lora=None if lora is None else lora_settings(lora),
        held_out=held_out,
        eval_split=eval_split,
        every=every,
        num_pairs=probe_pairs,
        probe=probe,
        probe_generate=probe_generate,
    )
    policy = PolicyOptions(device=device)
    recompute = activation_checkpointing
    settings = scan_settings(pairs, policy, LossSettings(), dtype.value, sample, activation_checkpointing=recompute)
    try:
        document = api.rehearse(
            model, data, settings, training, eval_data, output, rules, observer=_display(quiet=quiet)
        )
    except KeyboardInterrupt:
        tell("losses that were finished are kept; the same command does the others", prefix="interrupted: ")
        raise
    verdict = document["gate"]
    code = ExitCode.DONE if verdict is None else CODES[verdict["outcome"]]
    with keeping(code):
        for kind, file in files:
            write_file(file, partial(_write, kind=kind, document=document), "--write")
            tell(f"{kind.value} written to {file}")
        if not quiet:
            _write(sys.stdout, output_format, document)
            sys.stdout.flush()
    if code is not ExitCode.DONE:
        tell(f"gate {verdict['outcome'].replace('_', ' ')}")
    raise typer.Exit(code)


def _loss(text: str) -> LossSettings:
    """A loss such as `simpo` or `simpo:beta=2:gamma=1.2`.

    Raises:
        UsageError: another form, or an unknown loss.
    """
    from entangle_cli import api

    name, *parts = text.strip().split(":")
    numbers = dict(_number(part, f"--losses {text!r}", "NAME:beta=0.2") for part in parts)
    return api.customary_loss(name, numbers)


def _number(part: str, option: str, example: str) -> tuple[str, float]:
    name, _, value = part.partition("=")
    try:
        return name.strip().replace("-", "_"), float(value)
    except ValueError as error:
        raise UsageError(option, f"numbers as NAME=VALUE, such as {example}", f"write it like {example}") from error


def _write(stream: IO[str], kind: DocumentFormat, document: dict[str, Any]) -> None:
    from entangle_cli.cli.document import write_document
    from entangle_cli.report.rehearsal import rehearsal_report
    from entangle_cli.report.rehearsal_page import write_rehearsal_page

    title = "entangle: a training rehearsed"
    write_document(stream, kind, document, title, rehearsal_report, write_rehearsal_page)


def _display(*, quiet: bool) -> RehearsalObserver:
    """Shows on standard error how a rehearsal goes on."""
    from entangle_cli.api.rehearsing import RehearsalObserver
    from entangle_cli.cli.progress import progress

    class Display(RehearsalObserver):
        def opened(self, folder: Path, line: str) -> None:
            self._say(line)
            self._say(f"written to {folder}")

        @contextmanager
        def rehearsing(self, loss: str, num_steps: int, *, is_finished: bool) -> Iterator[Callable[[], None]]:
            self._say(f"{loss}: {'already there' if is_finished else counted(num_steps, 'step')}")
            with progress(num_steps, 0, quiet=quiet or is_finished, unit="steps") as advance:
                yield lambda: advance(1)

        def _say(self, line: str) -> None:
            if not quiet:
                tell(line)

    return Display()
