"""LLaMA-Factory's yaml, as LLaMA-Factory 0.9.5 reads it (hparams, data/parser.py, train/dpo)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entangle_cli.data.trainer_files import trainer_arguments
from entangle_cli.data.trainer_files.keys import Keys
from entangle_cli.data.trainer_files.trainer_arguments import mixed_precision, step_settings
from entangle_cli.data.trainer_files.trl_losses import kto_loss
from entangle_cli.records.settings import LoraSettings, LossSettings
from entangle_cli.records.training_setup import DataSetSetup, TrainingSetup

LOSS_KEYS = ("stage", "pref_loss", "pref_ftx", "pref_bco_weight", "dpo_label_smoothing")
STAGES = ("dpo", "kto")
DESCRIPTION = "dataset_info.json"

FROZEN = "all parameters are measured; --parameters takes a regular expression"

UNSUPPORTED = {
    **trainer_arguments.UNSUPPORTED,
    "template": "the tokenizer's own chat template is used; --chat-template FILE replaces it",
    "ld_alpha": "the weight of tokens beyond the shared length is not applied",
    "ref_model_adapters": "a reference adapter is not read",
    "quantization_bit": trainer_arguments.NOT_QUANTISED,
    "ref_model_quantization_bit": "the reference is measured without quantisation",
    "pissa_init": "a new adapter is initialised as PEFT does by default",
    "loraplus_lr_ratio": "one learning rate is used for both matrices of LoRA",
    "interleave_probs": "data sets are read whole, one after the other",
    "use_galore": "the forecast is for the optimizer without it",
    "use_apollo": "the forecast is for the optimizer without it",
    "use_badam": "the forecast is for the optimizer without it",
    "use_adam_mini": "the forecast is for the optimizer without it",
    "use_muon": "the forecast is for the optimizer without it",
    "freeze_trainable_layers": FROZEN,
    "freeze_trainable_modules": FROZEN,
    "freeze_extra_modules": FROZEN,
    "use_llama_pro": FROZEN,
    "moe_aux_loss_coef": "the router's own loss is not part of the measured loss",
    "rope_scaling": "the model's configuration is used as it is",
    "shift_attn": "attention is computed as the model defines it",
    "resize_vocab": "the tokenizer is used as the checkpoint has it",
    "add_tokens": "the tokenizer is used as the checkpoint has it",
    "add_special_tokens": "the tokenizer is used as the checkpoint has it",
    "new_special_tokens_config": "the tokenizer is used as the checkpoint has it",
    "default_system": "no system message is added",
    "enable_thinking": "passed to no template",
    "tool_format": "the chat template writes tools",
    "tokenized_path": "the rows are tokenised again",
    "disable_shuffling": "batches are drawn at random",
}


def read_llama_factory(file: str, config: Mapping[str, Any], folder: Path) -> TrainingSetup:
    """A training with LLaMA-Factory.

    Args:
        folder: of the file. Paths that do not exist in the working directory are looked for here.
    Raises:
        UsageError: a value cannot be used.
    """
    keys = Keys(file, config)
    method = keys.text("stage", "sft") or "sft"
    loss = _loss(keys, method)
    sets = _DataSets(keys, folder)
    data, eval_data = sets.named("dataset"), sets.named("eval_dataset")
    kind = keys.text("finetuning_type", "lora")
    adapters = keys.texts("adapter_name_or_path")
    if len(adapters) > 1:
        keys.remark("adapter_name_or_path", "only the last adapter is measured; merge the others first")
    _remark_differences(keys, kind)
    keys.remark_given(UNSUPPORTED)
    keys.ignore(*LORA_KEYS)
    step = step_settings(keys, learning_rate=5e-5)
    revision = keys.text("model_revision")
    return TrainingSetup(
        trainer="LLaMA-Factory",
        read_by="its keys as in LLaMA-Factory 0.9.5",
        method=method,
        model=keys.text("model_name_or_path"),
        model_revision=None if revision == "main" else revision,
        adapter=adapters[-1] if adapters else None,
        ref_model=keys.text("ref_model"),
        data=data,
        data_problem=sets.problem,
        eval_data=eval_data,
        held_out=0.0 if eval_data else keys.amount("val_size", 0.0),
        max_length=keys.count("cutoff_len", 2048),
        loss=loss,
        loss_problem=None if loss is not None else keys.unknown_loss(*LOSS_KEYS),
        dtype=_dtype(keys, kind),
        autocast=None if keys.flag("pure_bf16") else mixed_precision(keys, None),
        lora=_lora(keys) if kind == "lora" and not adapters else None,
        given=keys.given,
        remarks=tuple(keys.remarks),
        unread=keys.unread,
        **step,
    )


def _loss(keys: Keys, method: str) -> LossSettings | None:
    beta, likelihood = keys.amount("pref_beta", 0.1), keys.amount("pref_ftx", 0.0)
    name = keys.text("pref_loss", "sigmoid")
    smoothing, bco = keys.amount("dpo_label_smoothing", 0.0), keys.amount("pref_bco_weight", 0.0)
    gamma = keys.amount("simpo_gamma", 0.5)
    if method == "kto":
        return None if likelihood else kto_loss(keys, beta, "kto_chosen_weight", "kto_rejected_weight")
    if bco:
        return None
    if name == "sigmoid" and likelihood and not smoothing:
        return LossSettings("sigmoid_sft", beta, {"nll_weight": likelihood})
    if name == "simpo":
        return LossSettings("simpo", beta, {"gamma": gamma, "nll_weight": likelihood})
    if likelihood:
        return None
    if name == "sigmoid" and smoothing:
        return LossSettings("cdpo", beta, {"label_smoothing": smoothing})
    return LossSettings(name, beta) if name in ("sigmoid", "hinge", "ipo", "orpo") else None


LORA_KEYS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target", "use_rslora", "use_dora", "additional_target")


def _remark_differences(keys: Keys, kind: str | None) -> None:
    if kind in ("freeze", "oft"):
        keys.remark("finetuning_type", FROZEN)
    if keys.text("mix_strategy", "concat") != "concat":
        keys.remark("mix_strategy", "data sets are read whole, one after the other")


def _dtype(keys: Keys, kind: str | None) -> str | None:
    """LLaMA-Factory trains float32 copies of what it trains; other weights stay in the checkpoint's dtype."""
    if keys.flag("pure_bf16"):
        return "bfloat16"
    return "float32" if kind == "full" else None


def _lora(keys: Keys) -> LoraSettings:
    rank = keys.count("lora_rank", 8)
    targets = keys.texts("lora_target") or ["all"]
    return LoraSettings(
        r=rank,
        alpha=keys.count("lora_alpha", 2 * rank),
        targets=("all-linear",) if targets == ["all"] else tuple(targets),
        dropout=keys.amount("lora_dropout", 0.0),
        rslora=keys.flag("use_rslora"),
        dora=keys.flag("use_dora"),
        modules_to_save=tuple(keys.texts("additional_target")) or None,
    )


class _DataSets:
    """The data sets that `dataset` names, described in `dataset_info.json`."""

    def __init__(self, keys: Keys, folder: Path) -> None:
        self._keys = keys
        self.problem: str | None = None
        self._folder = Path(keys.text("dataset_dir", "data") or "data")
        if not (self._folder / DESCRIPTION).is_file() and (folder / self._folder / DESCRIPTION).is_file():
            self._folder = folder / self._folder
        self._samples = keys.whole("max_samples")

    def named(self, key: str) -> tuple[DataSetSetup, ...]:
        """The data sets of `dataset` or `eval_dataset`."""
        names = self._keys.texts(key)
        if not names:
            return ()
        described = self._described(names[0])
        return tuple(each for name in names if (each := self._one(name, described)) is not None)

    def _described(self, name: str) -> Mapping[str, Any] | None:
        """The content of the description; None where data sets are named by their place on the hub."""
        if str(self._folder) == "ONLINE":
            return None
        file = self._folder / DESCRIPTION
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self.problem = f"data set {name}: {file}: {getattr(error, 'strerror', None) or error}"
            return {}
        return content if isinstance(content, Mapping) else {}

    def _one(self, name: str, described: Mapping[str, Any] | None) -> DataSetSetup | None:
        if described is None:
            return DataSetSetup(name, split=self._split("train"))
        entry = described.get(name)
        if not isinstance(entry, Mapping):
            self.problem = self.problem or f"data set {name}: {self._folder / DESCRIPTION} does not describe it"
            return None
        split = self._split(str(entry.get("split") or "train"), entry.get("num_samples"))
        if (file := entry.get("file_name")) is not None:
            return DataSetSetup(str(self._folder / str(file)), split=split)
        if (hub := entry.get("hf_hub_url")) is None:
            self.problem = self.problem or f"data set {name}: neither a file nor on the hub"
            return None
        if entry.get("folder"):
            self._keys.remark("dataset", f"{name}: folder is not supported")
        return DataSetSetup(str(hub), split, entry.get("subset"), columns=self._columns(name, entry))

    def _split(self, split: str, num_samples: Any = None) -> str:
        limits = [number for number in (self._samples, num_samples) if number is not None]
        if limits:
            return f"{split}[:{min(limits)}]"
        return split

    def _columns(self, name: str, entry: Mapping[str, Any]) -> dict[str, str]:
        """Role to column of a data set on the hub. A file beside `dataset_info.json` is read by that description."""
        columns = entry.get("columns") or {}
        if columns.get("query") or columns.get("history"):
            self._keys.remark("dataset", f"{name}: columns.query and columns.history are not read")
        prompt = columns.get("messages") or columns.get("prompt")
        roles = {"prompt": prompt, **{role: columns.get(role) for role in ("chosen", "rejected", "system", "tools")}}
        named = {role: str(column) for role, column in roles.items() if column}
        return {} if all(role == column for role, column in named.items()) else named
