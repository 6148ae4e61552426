"""`entangle scan`: the measurement, from a command line to a run and its summary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from entangle_cli.cli.config import Origins, origins_of
from entangle_cli.cli.deadline import Deadline
from entangle_cli.cli.from_file import FromFile
from entangle_cli.cli.json_file import refuse_unwritable, write_file
from entangle_cli.cli.lora import Lora, lora_settings
from entangle_cli.cli.option_groups import (
    LossChoice,
    PairOptions,
    PolicyOptions,
    SampleOptions,
    WorkerOptions,
    scan_settings,
)
from entangle_cli.cli.options import (
    Data,
    Debug,
    FailIf,
    Model,
    RefModel,
)
from entangle_cli.cli.tell import tell
from entangle_cli.errors import ExitCode, NothingToJudgeError, UsageError
from entangle_cli.records.settings import LossSettings, ScanSettings, UntilDecided

if TYPE_CHECKING:
    from entangle_cli.api.outcomes import Decision, Rule


class Dtype(StrEnum):
    """Dtypes of the weights; float16 is here to be refused with its reason."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT64 = "float64"
    FLOAT16 = "float16"


def scan(
    *,
    context: typer.Context,
    model: Model,
    data: Data,
    sample: SampleOptions,
    pairs: PairOptions,
    policy: PolicyOptions,
    workers: WorkerOptions,
    from_file: FromFile = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run; default: a folder below entangle-runs/.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the run document to this file.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Dtype of the weights and of the computation.")] = Dtype.FLOAT32,
    device_map: Annotated[
        str | None, typer.Option(help="Spread the model over several devices: auto, balanced or sequential.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Measure part I of N, for job arrays. Join the parts with entangle merge."),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens per batch, padding included; default: chosen for speed and memory."),
    ] = None,
    activation_checkpointing: Annotated[
        bool,
        typer.Option(
            "--activation-checkpointing", help="Recompute activations: less memory, more time. For long answers."
        ),
    ] = False,
    checkpoints: Annotated[
        str | None,
        typer.Option(help="Checkpoints of a Trainer folder: last, all, or steps such as 100,200. One run each."),
    ] = None,
    lora: Lora = None,
    ref_model: RefModel = None,
    write_reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write DATA with reference log-probs in TRL's columns, from --ref-model, or else from MODEL.",
        ),
    ] = None,
    unshared_cosine: Annotated[
        bool,
        typer.Option(
            "--unshared-cosine", help="Also measure the cosine without the tokens that both answers start with."
        ),
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also keep the part of each parameter group: embedding, blocks, head.")
    ] = False,
    include_text: Annotated[
        bool,
        typer.Option("--include-text", help="Keep the text of the pairs in the run, for reports. It may be private."),
    ] = False,
    loss: LossChoice,
    fail_if: FailIf = None,
    until_decided: Annotated[
        bool,
        typer.Option("--until-decided", help="Measure rows in random order and stop when every --fail-if is settled."),
    ] = False,
    confidence: Annotated[float, typer.Option(help="Confidence of the --until-decided verdict.")] = 0.95,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be measured.")] = False,
    known: Annotated[
        Path | None,
        typer.Option(help="Run of the same model and settings. Pairs that it measured are not measured again."),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(help="Stop after this time and keep what was measured, for example 50m or 1h30m (exit 4)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the memory and time it needs, then stop.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only a gate's verdict and errors.")] = False,
    debug: Debug = False,
) -> None:
    """Measure how far the gradients of chosen and rejected overlap, for every pair."""
    from entangle_cli import api
    from entangle_cli.api import scanning
    from entangle_cli.cli.scan_display import ScanDisplay
    from entangle_cli.cli.verdict import keeping
    from entangle_cli.report.consoles import show
    from entangle_cli.report.escape import for_terminal
    from entangle_cli.report.plan import plan_lines

    origins = origins_of(context)
    rules = api.parsed_rules(fail_if or (), origins.of("fail-if"))
    if dry_run and rules:
        raise UsageError(
            f"--dry-run with --fail-if ({origins.of('fail-if')}): nothing is measured, so nothing can be judged",
            "one of the two",
            "leave --dry-run out",
        )
    api.refuse_without_baseline(rules)
    time_left = Deadline(deadline)
    stop = UntilDecided(tuple(rule.text for rule in rules), confidence) if until_decided else None
    weighing = loss.settings(LossSettings())
    api.check_loss(weighing)
    refuse_unwritable(json_file, *pairs.inputs(model, *data, ref_model, known))
    settings = scan_settings(
        pairs,
        policy,
        weighing,
        dtype.value,
        sample,
        shard=shard,
        lora=None if lora is None else lora_settings(lora),
        ref_model=ref_model,
        unshared_cosine=unshared_cosine,
        layers=layers,
        include_text=include_text,
        device_map=device_map,
        batch_tokens=batch_tokens,
        activation_checkpointing=activation_checkpointing,
        strict=strict,
        until_decided=stop,
        workers=workers.settings(),
    )
    scanning.check_settings(settings)
    models = _models(model, checkpoints, json_file)
    if write_reference is not None:
        _check_reference(write_reference, data, models, settings)
    codes = [ExitCode.DONE]
    with scanning.workers_started(settings):
        for each in models:
            display = ScanDisplay(time_left, quiet=quiet)
            if dry_run:
                show(sys.stdout, plan_lines(*scanning.estimate(each, data, settings, display)))
                continue
            folder = output if output is None or len(models) == 1 else output / Path(each).name
            about = {"configuration": {"options": dict(origins.taken)}}
            folder, decision = scanning.scan_into_run(each, data, settings, folder, display, known=known, about=about)
            if len(models) > 1 and quiet and rules:
                print(for_terminal(each))
            codes.append(_show_result(folder, settings, json_file, rules, decision, origins, quiet=quiet))
            if write_reference is not None:
                with keeping(codes[-1]):
                    _write_reference(folder, data[0], write_reference, quiet=quiet)
    raise typer.Exit(ExitCode.GATE_FAILED if ExitCode.GATE_FAILED in codes else max(codes))


def _models(model: str, checkpoints: str | None, json_file: Path | None) -> Sequence[str]:
    """The checkpoints to scan: one, or several of a training."""
    if checkpoints is None:
        return [model]
    from entangle_cli.api.scanning import chosen_checkpoints

    found = chosen_checkpoints(model, checkpoints)
    if json_file is not None and len(found) > 1:
        raise UsageError(
            f"--json {json_file} with {len(found)} checkpoints",
            "one document, which holds one run",
            "leave --json out, and write each run with entangle report RUN --format json",
        )
    return found


def _check_reference(target: Path, data: Sequence[str], models: Sequence[str], settings: ScanSettings) -> None:
    """Refuse what --write-reference cannot write.

    Raises:
        UsageError: several data sets or checkpoints, or a target that does not fit.
    """
    from entangle_cli.api.scanning import check_reference_target

    if len(data) > 1 or len(models) > 1:
        raise UsageError(
            f"--write-reference with {len(data)} data sets and {len(models)} checkpoints",
            "one of each",
            "scan them one by one",
        )
    check_reference_target(data[0], settings, target)


def _write_reference(folder: Path, data: str, target: Path, *, quiet: bool) -> None:
    from entangle_cli import api
    from entangle_cli.api.scanning import write_reference_columns
    from entangle_cli.records.words import counted

    num_written, num_left_out = write_reference_columns(api.read(folder), data, target)
    if not quiet:
        left_out = f"; {counted(num_left_out, 'row')} without them left out" if num_left_out else ""
        tell(f"{target}: {counted(num_written, 'row')} with reference log-probs{left_out}")


def _show_result(
    folder: Path,
    settings: ScanSettings,
    json_file: Path | None,
    rules: Sequence[Rule],
    decision: Decision | None,
    origins: Origins,
    *,
    quiet: bool,
) -> ExitCode:
    from entangle_cli import api
    from entangle_cli.api.scanning import write_summary
    from entangle_cli.cli.verdict import CODES, keeping
    from entangle_cli.report.consoles import show
    from entangle_cli.report.verdict import decision_lines, verdict_lines

    run = api.read(folder).under(settings.loss)
    verdict, code = None, ExitCode.DONE
    if decision is not None:
        assert decision.outcome is not None
        code = CODES[decision.outcome]
    elif rules:
        verdict = api.gate(run, rules, origins=origins.taken)
        code = CODES[verdict.outcome]
    with keeping(code):
        write_summary(run)
        if not quiet:
            show(sys.stdout, run.rendered())
        if json_file is not None:
            write_file(json_file, lambda stream: run.write_report(stream, "json"))
        if decision is not None:
            assert settings.until_decided is not None
            show(sys.stdout, decision_lines(decision, f"confidence {settings.until_decided.confidence:g}"))
        elif verdict is not None:
            show(sys.stdout, verdict_lines(verdict, run.command_words))
        sys.stdout.flush()
    if decision is None and verdict is None and not run.summary["pairs"]:
        raise NothingToJudgeError(
            f"{folder}: none of {run.summary['rows']:,} rows could be measured",
            "at least one pair that fits the model and --max-length",
            "see the reasons above, or entangle report",
        )
    return code
