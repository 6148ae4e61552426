"""The keys of a trainer's file, read by type. What nothing reads is known afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from entangle_cli.errors import UsageError
from entangle_cli.records.training_setup import Remark

WITHOUT_EFFECT = re.compile(
    r"(no_)?(logging|log|save|eval|evals|evaluation|saves|hub|push|report|wandb|mlflow|comet|swanlab|trackio|ddp|dataloader"
    r"|dataset_num|dataset_processes|preprocessing|run_name|project|output|overwrite|resume|seed|data_seed|do|tf32"
    r"|gradient_checkpointing|activation|gc|include|plot|print|tqdm|disable_tqdm|torch_compile|torch_empty|cache_dir"
    r"|skip_memory|remove_unused|load_best|metric_for|greater_is|early_stopping|use_tensorboard|use_wandb|use_cache"
    r"|profiler|local_rank|deepspeed_|fsdp|xformers|flash|sdp|eager|sage|attn|dataset_prepared|hf_use_auth|strict"
    r"|low_cpu|pad_to|padding_free|use_liger|enable_liger|ray|debug|ignore_bias|precompute_ref_batch|auto_resume"
    r"|strict|special_tokens_|use_reentrant|full_determinism|per_device_eval|generate_during|bnb_4bit|group_by_length"
    r"|shuffle|dataset_keep|max_memory|gpu_memory|use_fast|streaming|dataset_streaming|buffer|media|create_new"
    r"|disable_gradient|use_unsloth_gc|double_quant|quantization_type|quantization_method|lora_task_type|use_swanlab|precompute_ref_log_probs|loss_watchdog|excess_length_strategy|model_type|tokenizer_type|tokenizer_use_fast|is_\w+_derived_model|cls_model_config|env|tags|hub_model|plugins)(_.*)?"
)
"""Keys that change neither what a pair's gradients are nor the steps of a training, beyond rounding."""


class Keys:
    """The keys of a file with their values.

    Args:
        file: the file, for messages.
        values: key to value, defaults of the trainer included where they are known.
        given: keys that the file has; None for all.
    """

    def __init__(self, file: str, values: Mapping[str, Any], given: Iterable[str] | None = None) -> None:
        self.file = file
        self._values = dict(values)
        self._given = set(self._values if given is None else given)
        self._read: set[str] = set()
        self.remarks: list[Remark] = []

    @property
    def given(self) -> dict[str, Any]:
        """What the file itself says."""
        return {key: value for key, value in self._values.items() if key in self._given}

    @property
    def unread(self) -> tuple[str, ...]:
        """Keys of the file that were not read and may have an effect."""
        return tuple(
            key
            for key, value in self.given.items()
            if key not in self._read and not is_off(value) and not WITHOUT_EFFECT.fullmatch(key)
        )

    def has(self, key: str) -> bool:
        """Whether the file sets a key to a value."""
        return key in self._given and self._values.get(key) is not None

    def value(self, key: str, default: Any = None) -> Any:
        """The value as it is; the default where there is none."""
        self._read.add(key)
        value = self._values.get(key)
        return default if value is None else value

    def text(self, key: str, default: str | None = None) -> str | None:
        """A text."""
        value = self.value(key, default)
        if value is None or isinstance(value, str):
            return value or None
        return str(value)

    def number(self, key: str) -> float | None:
        """A number. YAML reads 5e-7 as a text; trainers read it as a number."""
        value = self.value(key)
        if value is None:
            return None
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise self._wrong(key, "a number") from error

    def amount(self, key: str, default: float) -> float:
        """A number that has a default."""
        number = self.number(key)
        return default if number is None else number

    def count(self, key: str, default: int) -> int:
        """A whole number that has a default."""
        number = self.whole(key)
        return default if number is None else number

    def whole(self, key: str) -> int | None:
        """A whole number."""
        number = self.number(key)
        if number is None:
            return None
        if number % 1:
            raise self._wrong(key, "a whole number")
        return int(number)

    def flag(self, key: str, default: bool = False) -> bool:
        """Whether a switch is on; `auto` counts as on."""
        value = self.value(key, default)
        if isinstance(value, str):
            return value.strip().lower() in ("true", "yes", "on", "1", "auto")
        return bool(value)

    def texts(self, key: str) -> list[str]:
        """A list of texts, or one text with commas or spaces between them."""
        value = self.value(key)
        if value is None:
            return []
        if isinstance(value, str):
            return [part for part in re.split(r"[\s,]+", value) if part]
        if not isinstance(value, list | tuple):
            raise self._wrong(key, "a list")
        return [str(part) for part in value]

    def numbers(self, key: str) -> list[float]:
        """A list of numbers."""
        try:
            return [float(part) for part in self.texts(key)]
        except ValueError as error:
            raise self._wrong(key, "a list of numbers") from error

    def entries(self, key: str, name: str) -> list[Keys]:
        """The objects of a list, each with its own keys. One without `name` is remarked on."""
        found = self.value(key)
        entries = []
        for entry in found if isinstance(found, list) else []:
            if isinstance(entry, Mapping) and entry.get(name):
                entries.append(Keys(f"{self.file}: {key}", {str(inner): value for inner, value in entry.items()}))
            else:
                self.remark(key, f"an entry without {name}: {shown(entry)}")
        return entries

    def inside(self, key: str) -> Keys:
        """The keys of an object; none where the file has no such object."""
        found = self.value(key)
        values = {str(inner): value for inner, value in found.items()} if isinstance(found, Mapping) else {}
        return Keys(f"{self.file}: {key}", values)

    def unknown_loss(self, *names: str) -> str:
        """Why no loss can be taken, with what some keys say."""
        said = [f"{key} {shown(self.value(key))}" for key in names if self.has(key)]
        return f"entangle has no loss for {', '.join(said)}"

    def remark(self, key: str, reason: str, value: Any = None) -> None:
        """Say that a key matters and is not taken, or not exactly.

        Args:
            value: what the file says there; None for the key's own value.
        """
        self._read.add(key)
        self.remarks.append(Remark(key, shown(self._values.get(key) if value is None else value), reason))

    def remark_given(self, reasons: Mapping[str, str]) -> None:
        """Remark on those of some keys that the file has and does not switch off."""
        for key, reason in reasons.items():
            if key in self._given and not is_off(self._values.get(key)):
                self.remark(key, reason)

    def ignore(self, *keys: str) -> None:
        """Count keys as read."""
        self._read.update(keys)

    def _wrong(self, key: str, expected: str) -> UsageError:
        return UsageError(
            f"{self.file}: {key}: {shown(self._values.get(key))!r}",
            expected,
            "write its value there; entangle does not run the script"
            if "$" in str(self._values.get(key))
            else "write what the trainer accepts there",
            topic="trainers",
        )


def is_off(value: Any) -> bool:
    """Whether a value of a file switches something off, or says nothing."""
    return value in (None, False, 0, "", [], {}) or str(value).lower() in ("false", "no", "off", "none", "0")


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
