"""TRL's yaml and command lines, as TRL 1.16 reads them, and keys that older versions had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from entangle_cli.data.trainer_files.keys import Keys, shown
from entangle_cli.data.trainer_files.launch_command import arguments_by_name
from entangle_cli.data.trainer_files.trainer_arguments import STEP_KEYS, mixed_precision, step_settings
from entangle_cli.data.trainer_files.trl_losses import loss_of, problem_of
from entangle_cli.data.trainer_files.trl_parser import RefusedByTrl, parsed_by_trl
from entangle_cli.records.settings import LoraSettings, Truncation
from entangle_cli.records.training_setup import DataSetSetup, TrainingSetup

NAME = "TRL"
OPTIMIZER = "adamw_torch_fused"
LEARNING_RATE = 1e-6

UNSUPPORTED = {
    "use_weighting": "WPO's weights of pairs are not computed",
    "ld_alpha": "the weight of tokens beyond the shared length is not applied",
    "sync_ref_model": "the reference moves with the policy; the measured reference stays",
    "ref_model_mixup_alpha": "the measured reference stays",
    "ref_model_sync_steps": "the measured reference stays",
    "reference_free": "a reference of uniform log-probs is not supported",
    "load_in_4bit": "the weights are measured without quantisation",
    "load_in_8bit": "the weights are measured without quantisation",
    "lora_target_parameters": "LoRA on parameters that are no layer's weight is not supported",
    "router_aux_loss_coef": "the router's own loss is not part of the measured loss",
    "max_prompt_length": "TRL 1.16 does not cut prompts on their own, nor does entangle",
    "max_completion_length": "TRL 1.16 does not cut answers on their own, nor does entangle",
    "trust_remote_code": "taken from the command line alone: add --trust-remote-code after reading that code",
    "ref_adapter_name": "a reference adapter is not read",
    "force_use_ref_model": "the reference is MODEL without its adapter",
}


def read_trl(
    file: str,
    method: str,
    config: Mapping[str, Any],
    arguments: Sequence[str] = (),
    num_processes: int = 1,
) -> TrainingSetup:
    """A training with TRL.

    Args:
        file: for messages.
        method: `dpo`, `cpo`, `simpo`, `orpo` or `kto`.
        config: content of the yaml; empty without one.
        arguments: words of the command line, which take precedence.
        num_processes: processes of the launcher.
    Raises:
        UsageError: a value cannot be used.
    """
    method = _method(method, {**config, **arguments_by_name(arguments)})
    known_method = "cpo" if method == "simpo" else method
    given = {key: value for key, value in {**config, **arguments_by_name(arguments)}.items() if key != "config"}
    parsed = parsed_by_trl(known_method, config, arguments)
    if isinstance(parsed, RefusedByTrl):
        read_by, problem = f"its keys; TRL {parsed.version} refuses it: {parsed.reason}", parsed.reason
        parsed = None
    else:
        read_by = "its keys; TRL is not installed" if parsed is None else f"the parser of TRL {parsed.version}"
        problem = None
    values = given if parsed is None else {**given, **parsed.values}
    keys = Keys(file, values, given)
    keys.ignore("config", "env")
    data, eval_data, held_out = _data(keys)
    loss = loss_of(method, keys)
    keys.remark_given(UNSUPPORTED)
    fields = {
        "model": keys.text("model_name_or_path"),
        "model_revision": _revision(keys),
        "tokenizer": keys.text("tokenizer_name_or_path"),
        "ref_model": keys.text("ref_model_name_or_path") or keys.text("ref_model"),
        "data": data,
        "eval_data": eval_data,
        "held_out": held_out,
        "chat_template": _chat_template(keys),
        "max_length": _max_length(keys),
        "truncation": keys.text("truncation_mode", Truncation.KEEP_START.value),
        "loss": loss,
        "dtype": _dtype(keys, method),
        "autocast": mixed_precision(keys, "bfloat16"),
        "lora": _lora(keys),
        **step_settings(keys, learning_rate=LEARNING_RATE, optimizer=OPTIMIZER, num_processes=num_processes),
    }
    return TrainingSetup(
        trainer=NAME,
        read_by=read_by,
        method=method,
        refused=problem,
        loss_problem=problem_of(keys, loss),
        given=given,
        keys={name: key for name, key in {**STEP_KEYS, **FIELD_KEYS}.items() if key in given},
        remarks=tuple(keys.remarks),
        unread=tuple(key for key in keys.unread if parsed is None or key not in parsed.unknown),
        unknown=() if parsed is None else tuple(key for key in parsed.unknown if key in keys.unread),
        **fields,
    )


FIELD_KEYS = {
    "model": "model_name_or_path",
    "model_revision": "model_revision",
    "max_length": "max_length",
    "truncation": "truncation_mode",
    "loss": "loss_type",
    "dtype": "dtype",
    "autocast": "bf16",
    "lora": "use_peft",
}


def _method(method: str, given: Mapping[str, Any]) -> str:
    """The trainer that a file's keys belong to; the given one if they fit all."""
    losses = given.get("loss_type")
    names = losses if isinstance(losses, list) else [losses]
    if {"simpo", "alphapo"} & set(map(str, names)):
        return "simpo"
    return "cpo" if "cpo_alpha" in given else method


def _revision(keys: Keys) -> str | None:
    revision = keys.text("model_revision")
    return None if revision == "main" else revision


def _dtype(keys: Keys, method: str) -> str | None:
    """TRL loads float32 weights for DPO and KTO unless the file says otherwise; else in the checkpoint's dtype."""
    kwargs = keys.value("model_init_kwargs")
    inner = kwargs.get("dtype") or kwargs.get("torch_dtype") if isinstance(kwargs, Mapping) else None
    default = "float32" if keys.has("dtype") or method in ("dpo", "kto") else "auto"
    named = keys.text("dtype", default) if default == "float32" else default
    dtype = inner or keys.text("torch_dtype") or named
    return None if dtype == "auto" else str(dtype).removeprefix("torch.")


def _max_length(keys: Keys) -> int | None:
    return keys.whole("max_length") if keys.has("max_length") or "max_length" in keys.given else 1024


def _chat_template(keys: Keys) -> str | None:
    if keys.has("chat_template"):
        keys.remark("chat_template", "a template in the file is not read; write it to a file and use --chat-template")
    return keys.text("chat_template_path")


def _lora(keys: Keys) -> LoraSettings | None:
    names = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_modules_to_save")
    keys.ignore(*names, "use_rslora", "use_dora")
    if not keys.flag("use_peft"):
        return None
    targets = keys.texts("lora_target_modules")
    return LoraSettings(
        r=keys.count("lora_r", 16),
        alpha=keys.count("lora_alpha", 32),
        targets=tuple(targets) or None,
        dropout=keys.amount("lora_dropout", 0.05),
        rslora=keys.flag("use_rslora"),
        dora=keys.flag("use_dora"),
        modules_to_save=tuple(keys.texts("lora_modules_to_save")) or None,
    )


def _data(keys: Keys) -> tuple[tuple[DataSetSetup, ...], tuple[DataSetSetup, ...], float]:
    """Data sets to train on and to evaluate on, and the share of the first that is left out."""
    mixture = keys.value("datasets") or []
    is_evaluated = keys.text("eval_strategy", "no") != "no" or keys.flag("do_eval")
    if isinstance(mixture, list) and mixture:
        keys.ignore("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split")
        return tuple(_of_mixture(keys, mixture)), (), keys.amount("test_split_size", 0.0)
    keys.ignore("test_split_size")
    if isinstance(mixer := keys.value("dataset_mixer"), Mapping):
        return _of_mixer(keys, mixer)
    if isinstance(handbook := keys.value("dataset_mixture"), Mapping):
        entries = [entry for entry in handbook.get("datasets") or () if isinstance(entry, Mapping)]
        if any(float(entry.get("weight") or 1) != 1 for entry in entries):
            keys.remark("dataset_mixture", "weights of data sets are not applied; all rows are read")
        sets = [_set(str(entry.get("id")), entry.get("split"), entry.get("config")) for entry in entries]
        return tuple(sets), (), float(handbook.get("test_split_size") or 0)
    name = keys.text("dataset_name")
    if name is None:
        return (), (), 0.0
    config_name = keys.text("dataset_config")
    train = keys.text("dataset_train_split", "train")
    test = keys.text("dataset_test_split", "test")
    held_out = (_set(name, test, config_name),) if is_evaluated else ()
    return (_set(name, train, config_name),), held_out, 0.0


def _set(name: str, split: str | None, config_name: str | None = None) -> DataSetSetup:
    return DataSetSetup(name, split or "train", config_name)


def _of_mixture(keys: Keys, mixture: Sequence[Any]) -> list[DataSetSetup]:
    """The data sets of `datasets`. An entry is a `DatasetConfig` of TRL."""
    found = []
    for entry in mixture:
        if not isinstance(entry, Mapping) or not entry.get("path"):
            keys.remark("datasets", f"an entry without a path: {shown(entry)}")
            continue
        files = entry.get("data_files")
        name = str(entry["path"])
        if files and name in BUILDERS:
            names = [str(file) for file in ([files] if isinstance(files, str) else files)]
        else:
            names = [name]
            if files or entry.get("data_dir"):
                keys.remark("datasets", f"{name}: data_files and data_dir of a data set are not supported")
        if entry.get("fraction") is not None:
            keys.remark("datasets", f"{name}: fraction {entry['fraction']:g} is not applied; all rows are read")
        found += [_set(each, entry.get("split"), entry.get("name")) for each in names]
    return found


BUILDERS = ("json", "csv", "parquet", "arrow")
"""Names in place of a data set's for files on this machine."""


def _of_mixer(keys: Keys, mixer: Mapping[str, Any]) -> tuple[tuple[DataSetSetup, ...], tuple[DataSetSetup, ...], float]:
    """The data sets of alignment-handbook's `dataset_mixer`: name to the share of its rows, from the start."""
    splits = keys.texts("dataset_splits") or ["train", "test"]
    configs = keys.texts("dataset_configs")
    train = [split for split in splits if "train" in split]
    test = [split for split in splits if "test" in split]
    data, eval_data = [], []
    for position, (name, share) in enumerate(mixer.items()):
        config = configs[position] if position < len(configs) else None
        part = float(share) if isinstance(share, int | float) else 1.0
        for split in train:
            data.append(_set(name, split if part >= 1 else f"{split}[:{part:.0%}]", config))
        eval_data += [_set(name, split, config) for split in test]
    return tuple(data), tuple(eval_data), 0.0
