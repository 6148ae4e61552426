"""`--from`: a trainer's file as options of a command, which the command line overrides."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from entangle_cli.cli.tell import tell
from entangle_cli.errors import UsageError
from entangle_cli.records.data_words import data_word
from entangle_cli.records.measuring_options import lora_text
from entangle_cli.records.settings import Dtype, LossSettings, Schedule
from entangle_cli.records.training_setup import DataSetSetup, Remark, TrainingSetup

FromFile = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Take model, data, loss and the rest from the file of a training with TRL, axolotl or LLaMA-Factory. The "
        "command line takes precedence.",
    ),
]
PARAMETER = "from_file"

BELONGING = {
    "model": {"model_revision", "base_model", "tokenizer"},
    "data": {"split", "config_name", "data_revision", "data_format", "column_map", "eval_data", "eval_split"},
    "loss": {"beta", "gamma", "loss_option"},
    "horizon": {"epochs"},
    "epochs": {"horizon"},
    "eval_data": {"eval_split", "held_out"},
    "held_out": {"eval_data", "eval_split"},
}
"""Parameter to those that are not taken from the file if the command line gives it."""


class Setting(NamedTuple):
    """A value for a parameter of a command."""

    parameter: str
    value: Any
    """As a command line would give it: a text, a number, or a list of texts."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a command takes from a trainer's file."""

    file: Path
    setup: TrainingSetup
    settings: tuple[Setting, ...]
    command: str
    """The same command without the file: what the command line gives, then these settings, as words of a shell."""
    unused: tuple[str, ...]
    """Fields of the setup that this command has no option for."""
    remarks: tuple[Remark, ...]

    @property
    def values(self) -> dict[str, Any]:
        """Parameter to value."""
        return dict(self.settings)


def taken_from(
    file: Path,
    command: str,
    options: Mapping[str, str],
    defaults: Mapping[str, Any],
    given: Collection[str],
    own_words: Sequence[str],
) -> Taken:
    """The settings of a command that a trainer's file gives.

    Args:
        command: its name.
        options: parameters of the command to their options; arguments to an empty text.
        defaults: parameter to its default.
        given: parameters that the command line gives.
        own_words: the words of the command line.
    Raises:
        UsageError: the file cannot be read, or the command needs what it cannot give.
    """
    from entangle_cli.api.trainer_files import training_setup

    setup = training_setup(file)
    if command != "doctor":  # where it is a finding
        _refuse_missing(file, setup, options, given)
    left_out = set(given).union(*(BELONGING.get(name, set()) for name in given))
    remarks = [*setup.remarks, *_remarks(setup, options)]
    found = list(_settings(setup, command, given))
    settings = tuple(each for each in found if each.parameter in options and each.parameter not in left_out)
    # The doctor looks at all of the file. Without a choice of optimizers, it is AdamW.
    others = () if command == "doctor" else (each for each in found if each != Setting("optimizer", "adamw"))
    unused = tuple(dict.fromkeys(each.parameter for each in others if each.parameter not in options))
    words = ["entangle", command, *_without_file(own_words), *_words(settings, options, defaults)]
    return Taken(file, setup, settings, shlex.join(words), unused, tuple(remarks))


def _without_file(words: Sequence[str]) -> Iterator[str]:
    """The words of a command line without `--from FILE`."""
    remaining = iter(words)
    for word in remaining:
        if word == "--from":
            next(remaining, None)
        elif not word.startswith("--from="):
            yield word


def tell_taken(taken: Taken) -> None:
    """Say on standard error what a file gave, and what it says that was not taken."""
    setup = taken.setup
    tell(f"{taken.file}: a training with {setup.trainer} ({setup.method}), read by {setup.read_by}")
    if setup.refused is not None:
        tell(f"{setup.trainer} refuses it: {setup.refused}")
    tell(f"the same without the file: {taken.command}")
    for remark in taken.remarks:
        tell(f"not taken: {remark.key}: {remark.value} -- {remark.reason}")
    for title, names in (
        (f"not known to {setup.trainer} here", setup.unknown),
        ("not looked at", setup.unread),
        ("this command does not use", taken.unused),
    ):
        if names:
            tell(f"{title}: {', '.join(names)}")


def _refuse_missing(file: Path, setup: TrainingSetup, options: Mapping[str, str], given: Collection[str]) -> None:
    if setup.loss_problem is not None and {"loss", "losses"} & set(options) and not {"loss", "losses"} & set(given):
        option = "--loss" if "loss" in options else "--losses"
        raise UsageError(
            f"--from {file}: {setup.loss_problem}",
            "a loss that entangle knows (entangle explain losses)",
            f"add {option} sigmoid to measure under DPO's loss, or name another",
            topic="trainers",
        )
    if setup.data_problem is not None and "data" not in given:
        raise UsageError(
            f"--from {file}: {setup.data_problem}",
            "data sets that can be found from here",
            "run in the folder of the training, or name DATA on the command line",
            topic="trainers",
        )


def _remarks(setup: TrainingSetup, options: Mapping[str, str]) -> Iterator[Remark]:
    """What this command cannot take."""
    if "lr_scheduler_type" in options and setup.lr_scheduler_type not in {None, *Schedule}:
        yield Remark("lr_scheduler_type", str(setup.lr_scheduler_type), f"supported: {', '.join(Schedule)}")
    if setup.dtype == "float16" or setup.autocast == "float16":
        yield Remark("fp16", "true", "float16 is not supported; float32 is used")
    if "learning_rate" in options and setup.dtype == "bfloat16" and setup.lora is None:
        yield Remark(
            "dtype", "bfloat16", "float32 weights are used here; see entangle doctor on steps that rounding loses"
        )
    if "eval_data" in options and len(setup.eval_data) > 1:
        others = ", ".join(each.name for each in setup.eval_data[1:])
        yield Remark("eval data", others, "one held-out data set is read, the first")
    if "held_out" in options and setup.held_out >= 1:
        yield Remark("held-out rows", f"{setup.held_out:g}", "--held-out takes a share of the rows, such as 0.1")


def _settings(setup: TrainingSetup, command: str, given: Collection[str]) -> Iterator[Setting]:
    """All settings of a file, whether the command has them or not."""
    yield from _present(
        model=setup.adapter or setup.model,
        base_model=setup.model if setup.adapter else None,
        model_revision=setup.model_revision,
        tokenizer=setup.tokenizer,
    )
    yield from _data_settings(setup.data, given)
    yield from _present(
        chat_template=setup.chat_template,
        max_length=setup.max_length or 0,
        truncation=setup.truncation,
        ref_model=setup.ref_model,
        lora=None if setup.lora is None else lora_text(setup.lora),
        dtype=_dtype(setup, command),
    )
    if setup.loss is not None:
        yield from _loss_settings(setup.loss, command)
    if command in ("scan", "inspect", "doctor"):
        return
    yield from _step_settings(setup)
    if setup.eval_data:
        yield Setting("eval_data", _word(setup.eval_data[0]))
    elif 0 < setup.held_out < 1:
        yield Setting("held_out", setup.held_out)


def _present(**values: Any) -> Iterator[Setting]:
    return (Setting(name, value) for name, value in values.items() if value is not None)


def _data_settings(data: Sequence[DataSetSetup], given: Collection[str]) -> Iterator[Setting]:
    """DATA with the options that all data sets share; where they differ, each has its own in its word."""
    if not data:
        return
    each = [_reading_options(one, given) for one in data]
    shared = each[0] if all(options == each[0] for options in each) else []
    words = [data_word(one.name, () if shared else options) for one, options in zip(data, each, strict=True)]
    yield Setting("data", words)
    maps = [value for option, value in shared if option == "map"]
    for option, value in shared:
        if option != "map":
            yield Setting(option.replace("-", "_"), value)
    if maps:
        yield Setting("column_map", maps)


def _reading_options(one: DataSetSetup, given: Collection[str]) -> list[tuple[str, str]]:
    values = {
        "split": one.split,
        "config-name": one.config_name,
        "data-revision": one.revision,
        "data-format": one.data_format,
    }
    options = [(name, value) for name, value in values.items() if value and name.replace("-", "_") not in given]
    if "column_map" not in given:
        options += [("map", f"{role}={column}") for role, column in one.columns.items()]
    return options


def _word(one: DataSetSetup) -> str:
    return data_word(one.name, _reading_options(one, ()))


def _loss_settings(loss: LossSettings, command: str) -> Iterator[Setting]:
    if command == "rehearse":
        numbers = "".join(f":{name}={_text(value)}" for name, value in {"beta": loss.beta, **loss.options}.items())
        yield Setting("losses", [f"{loss.name}{numbers}"])
        return
    yield Setting("loss", loss.name)
    yield Setting("beta", loss.beta)
    others = [f"{name}={_text(value)}" for name, value in loss.options.items() if name != "gamma"]
    if "gamma" in loss.options:
        yield Setting("gamma", loss.options["gamma"])
    if others:
        yield Setting("loss_option", others)


def _step_settings(setup: TrainingSetup) -> Iterator[Setting]:
    is_scheduled = setup.lr_scheduler_type in set(Schedule)
    yield from _present(
        optimizer="sgd" if setup.optimizer == "sgd" else "adamw",
        learning_rate=setup.learning_rate,
        lr_scheduler_type=setup.lr_scheduler_type if is_scheduled else None,
        warmup_steps=setup.warmup_steps,
        weight_decay=setup.weight_decay,
        max_grad_norm=setup.max_grad_norm,
        batch_size=setup.batch_size,
        accumulate=setup.accumulate,
        epochs=setup.epochs,
        horizon=setup.max_steps,
    )


def _dtype(setup: TrainingSetup, command: str) -> str | None:
    """Of the weights for a measurement, of the computation for real steps."""
    if command == "forecast":  # bfloat16 weights lose a small step to rounding
        return None
    dtype = setup.autocast if command == "rehearse" else setup.dtype
    return dtype if dtype in (Dtype.FLOAT32, Dtype.BFLOAT16) else None


def _words(settings: Sequence[Setting], options: Mapping[str, str], defaults: Mapping[str, Any]) -> Iterator[str]:
    """The words of a command line; what is the command's default is left out."""
    for each in settings:
        option = options[each.parameter]
        if not option:
            yield from each.value if isinstance(each.value, list) else [str(each.value)]
    for each in settings:
        option = options[each.parameter]
        if not option or each.value == defaults.get(each.parameter):
            continue
        for value in each.value if isinstance(each.value, list) else [each.value]:
            yield from (option, _text(value))


def _text(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
