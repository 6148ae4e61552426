"""TRL's yaml and command lines, as TRL 1.16 reads them, and keys that older versions had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from entangle_cli.data.trainer_files import trainer_arguments
from entangle_cli.data.trainer_files.data_sets import data_set, data_sets_of
from entangle_cli.data.trainer_files.keys import Keys
from entangle_cli.data.trainer_files.launch_command import arguments_by_name
from entangle_cli.data.trainer_files.trainer_arguments import mixed_precision, step_settings
from entangle_cli.data.trainer_files.trl_losses import LOSS_KEYS, loss_of
from entangle_cli.data.trainer_files.trl_parser import Parsed, RefusedByTrl, parsed_by_trl
from entangle_cli.records.settings import LoraSettings, Truncation
from entangle_cli.records.training_setup import DataSetSetup, TrainingSetup

UNSUPPORTED = {
    **trainer_arguments.UNSUPPORTED,
    "use_weighting": "WPO's weights of pairs are not computed",
    "ld_alpha": "the weight of tokens beyond the shared length is not applied",
    "sync_ref_model": "the reference moves with the policy; the measured reference stays",
    "ref_model_mixup_alpha": "the measured reference stays",
    "ref_model_sync_steps": "the measured reference stays",
    "reference_free": "a reference of uniform log-probs is not supported",
    "load_in_4bit": trainer_arguments.NOT_QUANTISED,
    "load_in_8bit": trainer_arguments.NOT_QUANTISED,
    "lora_target_parameters": trainer_arguments.NO_OTHER_PARAMETERS,
    "router_aux_loss_coef": "the router's own loss is not part of the measured loss",
    "max_prompt_length": "TRL 1.16 does not cut prompts on their own, nor does entangle",
    "max_completion_length": "TRL 1.16 does not cut answers on their own, nor does entangle",
    "ref_adapter_name": "a reference adapter is not read",
    "force_use_ref_model": "the reference is MODEL without its adapter",
    "chat_template": "a template in the file is not read; write it to a file and use --chat-template",
}

HANDBOOK = {
    *(
        "dataset_mixer",
        "dataset_splits",
        "dataset_configs",
        "auto_insert_empty_system_msg",
        "preprocessing_num_workers",
    ),
    *("chat_template", "gamma_beta_ratio", "sft_weight"),
}
"""Keys of the alignment-handbook's and SimPO's own scripts, which build on TRL."""


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
    given = {**config, **arguments_by_name(arguments)}
    method = _method(method, given)
    parsed = parsed_by_trl("cpo" if method == "simpo" else method, config, arguments)
    values = parsed.values if isinstance(parsed, Parsed) else {}
    given = {key: values.get(key, value) for key, value in given.items()}
    keys = Keys(file, {**given, **values}, given)
    keys.ignore("env")
    data = _data(keys)
    loss = loss_of(method, keys)
    step = step_settings(keys, learning_rate=1e-6, num_processes=num_processes)
    keys.remark_given(UNSUPPORTED)
    revision = keys.text("model_revision")
    unknown = parsed.unknown if isinstance(parsed, Parsed) else ()
    return TrainingSetup(
        trainer="TRL",
        read_by=_read_by(parsed),
        method=method,
        model=keys.text("model_name_or_path"),
        model_revision=None if revision == "main" else revision,
        tokenizer=keys.text("tokenizer_name_or_path"),
        ref_model=keys.text("ref_model_name_or_path") or keys.text("ref_model"),
        data=tuple(data.train),
        eval_data=tuple(data.test),
        held_out=data.held_out,
        chat_template=keys.text("chat_template_path"),
        max_length=keys.whole("max_length") if "max_length" in given else 1024,
        truncation=keys.text("truncation_mode", Truncation.KEEP_START.value),
        loss=loss,
        loss_problem=None if loss is not None else keys.unknown_loss(*LOSS_KEYS),
        dtype=_dtype(keys, method),
        autocast=mixed_precision(keys, "bfloat16"),
        lora=_lora(keys),
        num_processes=num_processes,
        given=given,
        remarks=tuple(keys.remarks),
        parser=f"TRL {parsed.version}" if isinstance(parsed, Parsed) else None,
        refused=_refused(parsed),
        unknown=tuple(key for key in unknown if key not in HANDBOOK),
        unread=tuple(key for key in keys.unread if key not in unknown),
        **step,
    )


def _refused(parsed: Parsed | RefusedByTrl | None) -> str | None:
    if isinstance(parsed, Parsed):
        return parsed.refused
    return None if parsed is None else parsed.reason


def _read_by(parsed: Parsed | RefusedByTrl | None) -> str:
    if isinstance(parsed, Parsed):
        return f"the parser of TRL {parsed.version}"
    if isinstance(parsed, RefusedByTrl):
        return f"its keys; the parser of TRL {parsed.version} refuses it"
    return "its keys; TRL's parser is not available"


def _method(method: str, given: Mapping[str, Any]) -> str:
    """The trainer that a file's keys belong to; the given one if they fit all."""
    losses = given.get("loss_type")
    names = losses if isinstance(losses, list) else [losses]
    if {"simpo", "alphapo"} & set(map(str, names)) or "gamma_beta_ratio" in given:
        return "simpo"
    return "cpo" if "cpo_alpha" in given else method


def _dtype(keys: Keys, method: str) -> str | None:
    """TRL loads float32 weights for DPO and KTO unless the file says otherwise; else in the checkpoint's dtype."""
    named = keys.text("dtype")
    if not keys.has("dtype"):
        named = "float32" if method in ("dpo", "kto") else "auto"
    inside = keys.inside("model_init_kwargs")
    dtype = inside.text("dtype") or inside.text("torch_dtype") or keys.text("torch_dtype") or named
    return None if dtype in (None, "auto") else dtype.removeprefix("torch.")


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


class _Data(NamedTuple):
    """The data of a training."""

    train: Sequence[DataSetSetup]
    test: Sequence[DataSetSetup] = ()
    held_out: float = 0.0
    """Share or number of the rows that the trainer leaves out."""


def _data(keys: Keys) -> _Data:
    keys.ignore("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split", "test_split_size")
    if entries := keys.entries("datasets", "path"):
        sets = [each for entry in entries for each in data_sets_of(keys, "datasets", entry)]
        return _Data(sets, held_out=keys.amount("test_split_size", 0.0))
    if keys.has("dataset_mixer"):
        return _of_mixer(keys)
    if keys.has("dataset_mixture"):
        return _of_mixture(keys)
    if (name := keys.text("dataset_name")) is None:
        return _Data(())
    config_name = keys.text("dataset_config")
    train = data_set(name, keys.text("dataset_train_split"), config_name)
    is_evaluated = keys.text("eval_strategy", "no") != "no" or keys.flag("do_eval")
    test = data_set(name, keys.text("dataset_test_split", "test"), config_name)
    return _Data((train,), (test,) if is_evaluated else ())


def _of_mixture(keys: Keys) -> _Data:
    """alignment-handbook's `dataset_mixture`: entries with a weight."""
    mixture = keys.inside("dataset_mixture")
    entries = mixture.entries("datasets", "id")
    if any(entry.amount("weight", 1.0) != 1 for entry in entries):
        keys.remark("dataset_mixture", "weights of data sets are not applied; all rows are read")
    sets = [data_set(entry.text("id") or "", entry.text("split"), entry.text("config")) for entry in entries]
    return _Data(sets, held_out=mixture.amount("test_split_size", 0.0))


def _of_mixer(keys: Keys) -> _Data:
    """alignment-handbook's `dataset_mixer`: name to the share of its rows, from the start."""
    mixer = keys.inside("dataset_mixer")
    splits = keys.texts("dataset_splits") or ["train", "test"]
    configs = keys.texts("dataset_configs")
    train, test = [], []
    for position, name in enumerate(mixer.given):
        config_name = configs[position] if position < len(configs) else None
        part = mixer.amount(name, 1.0)
        for split in splits:
            if "train" in split:
                train.append(data_set(name, split if part >= 1 else f"{split}[:{part:.0%}]", config_name))
            else:
                test.append(data_set(name, split, config_name))
    return _Data(train, test)
