"""Reads a trainer's file, whichever trainer it belongs to."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from entangle_cli.data.trainer_files.axolotl import PREFERENCE_METHODS, read_axolotl
from entangle_cli.data.trainer_files.launch_command import (
    METHODS,
    LaunchCommand,
    arguments_by_name,
    find_launch_command,
)
from entangle_cli.data.trainer_files.llama_factory import STAGES, read_llama_factory
from entangle_cli.data.trainer_files.trl import read_trl
from entangle_cli.errors import UsageError
from entangle_cli.records.training_setup import TrainingSetup

EXPECTED = "the yaml of a preference training with TRL, axolotl or LLaMA-Factory, or a script that starts one with TRL"
MARKS: Mapping[str, set[str]] = {
    "axolotl": {"base_model", "rl", "micro_batch_size", "sequence_len"},
    "LLaMA-Factory": {"stage", "pref_loss", "pref_beta", "cutoff_len", "finetuning_type", "dataset_dir"},
    "TRL": {
        *("model_name_or_path", "dataset_name", "dataset_mixer", "loss_type", "beta", "max_length", "use_peft"),
        *("per_device_train_batch_size", "max_prompt_length", "dataset_train_split", "datasets", "learning_rate"),
    },
}
"""Trainer to keys of its files. The first trainer with two of them is taken."""

OTHERS: Mapping[str, set[str]] = {
    "a DeepSpeed configuration": {"zero_optimization", "train_micro_batch_size_per_gpu", "fp16", "bf16"},
    "an accelerate configuration": {"compute_environment", "distributed_type", "num_processes", "machine_rank"},
    "a model's config.json": {"architectures", "model_type", "hidden_size", "vocab_size"},
    "an adapter's adapter_config.json": {"peft_type", "lora_alpha", "base_model_name_or_path", "task_type"},
    "a state of Trainer, which entangle compare --trainer-log reads": {"log_history", "global_step", "max_steps"},
    "a torchtune configuration": {"_component_", "checkpointer", "tokenizer", "loss"},
    "a GitHub workflow": {"jobs", "True", "name"},
}
"""What other files look like, to their keys."""


def read_trainer_file(path: Path) -> TrainingSetup:
    """What a file says of a training.

    Raises:
        UsageError: it cannot be read, belongs to no known trainer, or describes no preference training.
    """
    text = _text(path)
    command = None if path.suffix in (".yaml", ".yml", ".json") else find_launch_command(text)
    if command is not None:
        return _of_command(path, command)
    if path.suffix == ".sh":
        raise _unusable(
            f"--from {path}: no command that starts {', '.join(METHODS)}", EXPECTED, "name the file with that command"
        )
    return _of_mapping(path, _mapping(path, text))


def _unusable(found: str, expected: str, remedy: str) -> UsageError:
    return UsageError(found, expected, remedy, topic="trainers")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unusable(
            f"--from {path}: {getattr(error, 'strerror', None) or 'not a text file'}", EXPECTED, "check the path"
        ) from error


def _mapping(path: Path, text: str) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}"
        reason = getattr(error, "problem", None) or "not a yaml"
        raise _unusable(f"--from {path}{place}: {reason}", EXPECTED, "repair the file, or name another") from error
    if not isinstance(content, Mapping):
        found = "an empty file" if content is None else f"a {type(content).__name__}, not keys with values"
        raise _unusable(f"--from {path}: {found}", EXPECTED, "name the training's own file")
    return {str(key): value for key, value in content.items()}  # yaml reads a key such as `on` as true


def _of_mapping(path: Path, config: Mapping[str, Any]) -> TrainingSetup:
    file, keys = str(path), set(config)
    trainer = next((name for name, marks in MARKS.items() if len(marks & keys) >= 2), None)
    if trainer == "TRL":
        _refuse_other_trainer(path, keys)
    if trainer is None or any(len(marks & keys) >= 3 for marks in OTHERS.values()):
        raise _unusable(f"--from {path}: {_looks(keys)}", EXPECTED, "name the training's own file")
    if trainer == "axolotl":
        _refuse_method(path, "rl", config.get("rl"), PREFERENCE_METHODS)
        return read_axolotl(file, config)
    if trainer == "LLaMA-Factory":
        _refuse_method(path, "stage", config.get("stage"), STAGES)
        return read_llama_factory(file, config, path.parent)
    return read_trl(file, _method_of_name(path), config)


OTHER_TRAINERS = {
    "SFT": {"packing", "assistant_only_loss", "completion_only_loss", "dataset_text_field"},
    "GRPO or RLOO": {"num_generations", "reward_funcs", "reward_model_name_or_path"},
    "reward modelling": {"center_rewards_coefficient"},
}
"""TRL's other trainers, to keys that only they have."""


def _refuse_other_trainer(path: Path, keys: set[str]) -> None:
    for title, marks in OTHER_TRAINERS.items():
        if marks & keys:
            raise _unusable(
                f"--from {path}: {min(marks & keys)} belongs to TRL's {title}: not a preference training",
                EXPECTED,
                "name the file of the preference training",
            )


def _refuse_method(path: Path, key: str, method: Any, known: tuple[str, ...]) -> None:
    if method not in known:
        raise _unusable(
            f"--from {path}: {key}: {method}: not a preference training",
            f"{key} as one of {', '.join(known)}",
            "name the file of the preference training",
        )


def _method_of_name(path: Path) -> str:
    """The method in a file's name, such as `orpo_config.yaml`; else DPO."""
    return next((method for method in METHODS if method in path.stem.lower()), "dpo")


def _of_command(path: Path, command: LaunchCommand) -> TrainingSetup:
    arguments: list[str] = list(command.arguments)
    config: Mapping[str, Any] = {}
    if "--config" in arguments[:-1]:
        position = arguments.index("--config")
        name = arguments[position + 1]
        del arguments[position : position + 2]
        file = Path(name)
        if not file.is_file() and (path.parent / name).is_file():
            file = path.parent / name
        config = _mapping(file, _text(file))
    for name, value in arguments_by_name(arguments).items():
        if name in ("model_name_or_path", "dataset_name") and "$" in str(value):
            raise _unusable(
                f"--from {path}: --{name} {value}: a variable that the script does not set to a text",
                "a name",
                "write its value there; entangle does not run the script",
            )
    return read_trl(str(path), command.method, config, arguments, command.num_processes)


def _looks(keys: set[str]) -> str:
    for title, marks in OTHERS.items():
        if len(marks & keys) >= 2:
            return f"it looks like {title}"
    some = shlex.join(sorted(keys)[:6])
    return f"no known trainer has these keys: {some}"
