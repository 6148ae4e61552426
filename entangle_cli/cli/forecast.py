"""`entangle forecast`: one step of the user's optimizer and the end of a run, predicted, and on request taken."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from entangle_cli.cli.from_file import FromFile
from entangle_cli.cli.json_file import refuse_unwritable, write_file
from entangle_cli.cli.lora import Lora, lora_settings
from entangle_cli.cli.option_groups import LossChoice, PairOptions, PolicyOptions, SampleOptions, scan_settings
from entangle_cli.cli.options import (
    Accumulate,
    Data,
    Debug,
    Epochs,
    EvalSplit,
    LrSchedulerType,
    MaxGradNorm,
    Model,
    Probe,
    ProbeGenerate,
    RefModel,
    WarmupSteps,
    checked_epochs,
    refuse_split_alone,
)
from entangle_cli.cli.tell import tell
from entangle_cli.errors import UsageError
from entangle_cli.records.plan import ScanPlan
from entangle_cli.records.settings import ForecastSettings, LossSettings, Schedule

if TYPE_CHECKING:
    from entangle_cli.api.forecasting import ForecastObserver


class OptimizerName(StrEnum):
    """Optimizers whose step is forecast."""

    ADAMW = "adamw"
    SGD = "sgd"


class ForecastDtype(StrEnum):
    """Dtypes in which a small step does not vanish."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"


def forecast(
    *,
    model: Model,
    data: Data,
    sample: SampleOptions,
    pairs: PairOptions,
    policy: PolicyOptions,
    from_file: FromFile = None,
    eval_data: Annotated[
        str | None, typer.Option(help="Held-out pairs to forecast. They take no part in the step.")
    ] = None,
    eval_split: EvalSplit = None,
    optimizer: Annotated[OptimizerName, typer.Option(help="Optimizer that takes the step.")] = OptimizerName.ADAMW,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Learning rate; default: the state's, else TRL's 1e-6.")
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Weight decay of all parameters but biases and norms; default: the state's, else 0."
        ),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="optimizer.pt of a Trainer checkpoint; default: none, for the first step.")
    ] = None,
    max_grad_norm: MaxGradNorm = 1.0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pairs per batch, drawn with --seed; default: all pairs in one step.")
    ] = None,
    accumulate: Accumulate = 1,
    horizon: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of the run whose end is forecast; default: one epoch of the data."),
    ] = None,
    epochs: Epochs = 1.0,
    lr_scheduler_type: LrSchedulerType = Schedule.LINEAR,
    warmup_steps: WarmupSteps = 0.0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Take the real step on a copy at three learning rates and compare.")
    ] = False,
    lora: Lora = None,
    probe: Probe = None,
    probe_generate: ProbeGenerate = None,
    ref_model: RefModel = None,
    loss: LossChoice,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all numbers to this file.")] = None,
    dtype: Annotated[ForecastDtype, typer.Option(help="Dtype of the weights.")] = ForecastDtype.FLOAT32,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    debug: Debug = False,
) -> None:
    """Forecast the movement of every pair under one step of your optimizer, and at the end of a run."""
    from entangle_cli import api

    weighing = loss.settings(LossSettings())
    api.check_loss(weighing)
    refuse_unwritable(json_file, *pairs.inputs(model, *data, eval_data, ref_model, state, probe))
    if accumulate > 1 and batch_size is None:
        raise UsageError(
            "--gradient-accumulation-steps without --batch-size",
            "the pairs of a batch",
            "give --batch-size, or leave it out",
        )
    refuse_split_alone(eval_split, eval_data)
    planned = None if lora is None else lora_settings(lora)
    settings = scan_settings(pairs, policy, weighing, dtype.value, sample, lora=planned, ref_model=ref_model)
    step = ForecastSettings(
        optimizer=optimizer.value,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        state=state,
        max_grad_norm=max_grad_norm or None,
        batch_size=batch_size,
        accumulate=accumulate,
        horizon=horizon,
        epochs=checked_epochs(epochs),
        lr_scheduler_type=lr_scheduler_type.value,
        warmup_steps=warmup_steps,
        verify=verify,
        eval_split=eval_split,
        probe=probe,
        probe_generate=probe_generate,
    )
    try:
        document = api.forecast(model, data, settings, step, eval_data, observer=_display(quiet=quiet))
    except KeyboardInterrupt:
        tell("a forecast keeps nothing; the same command starts anew", prefix="interrupted: ")
        raise
    if not quiet:
        from entangle_cli.report.consoles import show
        from entangle_cli.report.forecast import forecast_report

        show(sys.stdout, forecast_report(document))
    if json_file is not None:
        from entangle_cli.report.rows import write_json

        write_file(json_file, lambda stream: write_json(stream, document))


def _display(*, quiet: bool) -> ForecastObserver:
    """Shows on standard error how a forecast goes on."""
    from entangle_cli.api.forecasting import ForecastObserver
    from entangle_cli.cli.progress import progress
    from entangle_cli.report.consoles import console_for
    from entangle_cli.report.plan import plan_lines

    class Display(ForecastObserver):
        def planned(self, plan: ScanPlan) -> None:
            console_for(sys.stderr).print(plan_lines(plan))

        @contextmanager
        def measuring(self, num_rows: int) -> Iterator[Callable[[int], None]]:
            with progress(num_rows, 0, quiet=quiet) as advance:
                yield advance

        def said(self, line: str) -> None:
            tell(line)

    return ForecastObserver() if quiet else Display()
