"""axolotl's yaml, as axolotl 0.19 reads it (utils/schemas, core/builders/rl.py, core/trainers/dpo), and older keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from entangle_cli.data.trainer_files import trainer_arguments
from entangle_cli.data.trainer_files.data_sets import data_sets_of
from entangle_cli.data.trainer_files.keys import Keys
from entangle_cli.data.trainer_files.trainer_arguments import remark_optimizer
from entangle_cli.data.trainer_files.trl_losses import dpo_loss, kto_loss
from entangle_cli.records.settings import LoraSettings, LossSettings
from entangle_cli.records.training_setup import DataSetSetup, TrainingSetup

LOSS_KEYS = ("rl", "dpo_loss_type", "dpo_loss_weights", "rpo_alpha", "dpo_norm_loss", "trainer_cls")
PREFERENCE_METHODS = ("dpo", "ipo", "orpo", "simpo", "kto")

TEMPLATE = "the tokenizer's own chat template is used; --chat-template FILE replaces it"

UNSUPPORTED = {
    **trainer_arguments.UNSUPPORTED,
    "dpo_use_weighting": "WPO's weights of pairs are not computed",
    "dpo_norm_loss": "no loss of entangle is this one",
    "load_in_4bit": trainer_arguments.NOT_QUANTISED,
    "load_in_8bit": trainer_arguments.NOT_QUANTISED,
    "gptq": trainer_arguments.NOT_QUANTISED,
    "loraplus_lr_ratio": "one learning rate is used for both matrices of LoRA",
    "peft_init_lora_weights": "a new adapter is initialised as PEFT does by default",
    "peft_layers_to_transform": "a new adapter is put on all layers",
    "lora_rank_pattern": "a new adapter has one rank",
    "lora_alpha_pattern": "a new adapter has one alpha",
    "lora_target_parameters": trainer_arguments.NO_OTHER_PARAMETERS,
    "unfrozen_parameters": "all parameters are measured; --parameters takes a regular expression",
    "dataset_exact_deduplication": "rows that occur twice are read twice",
    "dataset_shard_num": "all rows are read",
    "tokens": "the tokenizer is used as the checkpoint has it",
    "added_tokens_overrides": "the tokenizer is used as the checkpoint has it",
    "default_system_message": "no system message is added",
    "overrides_of_model_config": "the model's configuration is used as it is",
    "lr_groups": "one learning rate is used for all parameters",
    "embedding_lr": "one learning rate is used for all parameters",
    "cosine_min_lr_ratio": "the schedule ends at 0",
    "relora": "restarts of the adapter are not followed",
    "max_prompt_len": "axolotl drops it for this training, and entangle does not cut prompts on their own",
    "trainer_cls": "a trainer of its own; its loss is not known",
    "curriculum_sampling": "batches are drawn at random",
}


def read_axolotl(file: str, config: Mapping[str, Any]) -> TrainingSetup:
    """A training with axolotl.

    Raises:
        UsageError: a value cannot be used.
    """
    keys = Keys(file, config)
    method = keys.text("rl") or ""
    max_steps = keys.whole("max_steps")
    loss = _loss(keys, method)
    data = _data_sets(keys, "datasets")
    eval_data = _data_sets(keys, "test_datasets")
    keys.remark_given(UNSUPPORTED)
    remark_optimizer(keys, "optimizer")
    _remark_special_tokens(keys)
    _remark_template(keys)
    keys.ignore(*LORA_KEYS)
    is_adapter = keys.text("adapter") is not None
    continued = keys.text("lora_model_dir")
    return TrainingSetup(
        trainer="axolotl",
        read_by="its keys as in axolotl 0.19",
        method=method,
        model=keys.text("base_model"),
        model_revision=keys.text("revision_of_model"),
        tokenizer=keys.text("tokenizer_config"),
        adapter=continued,
        data=data,
        eval_data=eval_data,
        held_out=0.0 if eval_data else keys.amount("val_set_size", 0.0),
        max_length=keys.count("sequence_len", 512),
        truncation="keep_start" if keys.text("excess_length_strategy") == "truncate" else None,
        loss=loss,
        loss_problem=None if loss is not None else keys.unknown_loss(*LOSS_KEYS),
        learning_rate=keys.number("learning_rate"),
        lr_scheduler_type=keys.text("lr_scheduler", "cosine"),
        warmup_steps=_warmup(keys),
        weight_decay=keys.amount("weight_decay", 0.0),
        max_grad_norm=keys.amount("max_grad_norm", 1.0),
        optimizer=keys.text("optimizer", "adamw_torch_fused"),
        epochs=None if max_steps else keys.amount("num_epochs", 1.0),
        max_steps=max_steps or None,
        batch_size=keys.count("micro_batch_size", 1),
        accumulate=keys.count("gradient_accumulation_steps", 1),
        dtype=_dtype(keys),
        autocast=_autocast(keys),
        lora=_lora(keys) if is_adapter and continued is None else None,
        given=keys.given,
        remarks=tuple(keys.remarks),
        unread=keys.unread,
    )


def _loss(keys: Keys, method: str) -> LossSettings | None:
    inner = keys.inside("trl").number("beta")
    beta = inner if inner is not None else keys.amount("rl_beta", keys.amount("dpo_beta", 0.1))
    if keys.has("trainer_cls") or keys.has("dpo_norm_loss"):
        return None
    match method:
        case "ipo":
            return LossSettings("ipo", beta)
        case "orpo":
            is_given = inner is not None or keys.has("rl_beta")
            return LossSettings("orpo", beta if is_given else keys.amount("orpo_alpha", beta))
        case "simpo":
            numbers = {"gamma": keys.amount("simpo_gamma", 0.5), "nll_weight": keys.amount("cpo_alpha", 1.0)}
            return LossSettings("simpo", beta, numbers)
        case "kto":
            return kto_loss(keys, beta, "kto_desirable_weight", "kto_undesirable_weight")
        case _:
            return dpo_loss(keys, beta, "dpo_loss_type", "dpo_loss_weights", "dpo_label_smoothing")


def _warmup(keys: Keys) -> float:
    """Steps, or their share. Without a key axolotl takes 3 % of the run, at most 100 steps."""
    steps = keys.number("warmup_steps")
    return steps if steps is not None else keys.amount("warmup_ratio", 0.03)


def _dtype(keys: Keys) -> str | None:
    """axolotl loads the weights in the dtype in which it computes."""
    if _is_bfloat16(keys):
        return "bfloat16"
    return "float16" if keys.flag("fp16") or keys.flag("float16") else "float32"


def _autocast(keys: Keys) -> str | None:
    if keys.value("bf16") == "full":
        return None
    if _is_bfloat16(keys):
        return "bfloat16"
    return "float16" if keys.flag("fp16") else None


def _is_bfloat16(keys: Keys) -> bool:
    """The default, `auto`, is bfloat16 on every GPU that has it, unless the file names another dtype."""
    others = keys.flag("fp16") or keys.flag("float16") or keys.flag("float32")
    return keys.flag("bf16", default=not others) or keys.value("bf16") == "full" or keys.flag("bfloat16")


def _lora(keys: Keys) -> LoraSettings:
    targets = ["all-linear"] if keys.flag("lora_target_linear") else keys.texts("lora_target_modules")
    return LoraSettings(
        r=keys.count("lora_r", 8),
        alpha=keys.count("lora_alpha", 8),
        targets=tuple(targets) or None,
        dropout=keys.amount("lora_dropout", 0.0),
        rslora=keys.flag("peft_use_rslora"),
        dora=keys.flag("peft_use_dora"),
        modules_to_save=tuple(keys.texts("lora_modules_to_save")) or None,
    )


LORA_KEYS = (
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_linear", "lora_modules_to_save"),
    *("peft_use_rslora", "peft_use_dora"),
)


def _remark_special_tokens(keys: Keys) -> None:
    """Remark on special tokens that end or start a sequence. The padding token has no effect."""
    tokens = keys.value("special_tokens")
    if isinstance(tokens, Mapping) and set(tokens) - {"pad_token"}:
        keys.remark("special_tokens", "the tokenizer is used as the checkpoint has it")


def _remark_template(keys: Keys) -> None:
    template = keys.text("chat_template")
    if template not in (None, "tokenizer_default"):
        keys.remark("chat_template", TEMPLATE)
    if keys.has("chat_template_jinja"):
        keys.remark("chat_template_jinja", "a template in the file is not read; give it with --chat-template FILE")


def _data_sets(keys: Keys, key: str) -> tuple[DataSetSetup, ...]:
    entries = keys.entries(key, "path")
    return tuple(each for entry in entries for each in data_sets_of(keys, key, entry, _columns(keys, key, entry)))


def _columns(keys: Keys, key: str, entry: Keys) -> dict[str, str]:
    """The columns that an entry names; none where rows are recognised by their columns."""
    path, kind, named = entry.text("path"), entry.value("type"), entry.inside("type")
    if isinstance(kind, Mapping):
        for part in ("prompt_format", "chosen_format", "rejected_format"):
            if named.has(part):
                keys.remark(
                    f"{key}.type", f"{path}: {part} is not applied; the columns are read as they are", named.value(part)
                )
        columns = {role: named.text(f"field_{role}") or role for role in ("prompt", "chosen", "rejected")}
        system = named.text("field_system")
        return columns if system is None else {**columns, "system": system}
    name = str(kind or "")
    if name.partition(".")[0] in ("chatml", "llama3", "zephyr"):
        keys.remark(f"{key}.type", f"{path}: it writes its own template; {TEMPLATE}", name)
    if name != "chat_template.default":
        return {}
    fields = {"prompt": "field_messages", "chosen": "field_chosen", "rejected": "field_rejected"}
    defaults = {"prompt": "messages", "chosen": "chosen", "rejected": "rejected"}
    columns = {role: entry.text(field) or defaults[role] for role, field in fields.items()}
    return {} if columns == defaults else columns
