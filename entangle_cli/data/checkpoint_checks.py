"""Checks that refuse unsupported or damaged checkpoints, each with a specific message."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from entangle_cli.data.checkpoint_files import checkpoint_files, read_object
from entangle_cli.data.language_part import multimodal_architectures
from entangle_cli.data.patterns import refuse_slow_patterns
from entangle_cli.errors import ModelError

SHARD_FOLDERS = ("global_step*", "pytorch_model_fsdp_*", "*.distcp", "*/*.distcp")
"""Names of unmerged shards written by DeepSpeed and FSDP."""


def refuse_absent_weights(folder: Path, *, pickled_weights: bool) -> None:
    """Refuse a folder without readable weights, with a clearer message than the libraries'.

    Raises:
        ModelError: the folder has only pickles or unmerged training shards, or a shard of its index is missing.
    """
    for index in folder.glob("*.safetensors.index.json"):
        _refuse_missing_shards(index)
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(folder.glob("*.bin"))
    if pickles and not pickled_weights:
        raise ModelError(
            f"{folder}: only pickled weights, such as {pickles[0].name}; a pickle may hold code",
            "safetensors weights",
            "convert them, or use --pickled-weights to load them in torch's weights-only mode, which runs no code",
        )
    if not pickles and any(next(folder.glob(pattern), None) for pattern in SHARD_FOLDERS):
        raise ModelError(
            f"{folder}: only unmerged shards from distributed training",
            "merged weights",
            "merge them with zero_to_fp32.py in the folder (DeepSpeed) or accelerate merge-weights (FSDP)",
        )


def _refuse_missing_shards(index: Path) -> None:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: {error}", "an index of the shards", "copy the checkpoint again") from error
    if others := sorted(str(shard) for shard in shards if not str(shard).endswith(".safetensors")):
        raise ModelError(
            f"{index}: lists {others[0]}, which is not a safetensors file",
            "an index of safetensors shards; transformers would unpickle other files",
            "convert the weights to safetensors",
        )
    if missing := sorted(str(shard) for shard in shards if not (index.parent / str(shard)).is_file()):
        raise ModelError(
            f"{index.parent}: {len(missing)} of {len(shards)} shards are missing, the first {missing[0]}",
            "every file in the index",
            "copy the checkpoint again",
        )


def refuse_claimed_sizes(folder: Path, config: Any) -> None:
    """Refuse a config with more layers or larger sizes than the weights have.

    transformers creates the model before reading its weights. That could take hours or exhaust the memory.

    Raises:
        ModelError: a size in the config exceeds the weights, or a file is not valid safetensors.
    """
    shapes = [tuple(file.get_slice(name).get_shape()) for file, name in _weights(folder)]
    if not shapes:
        return
    text = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > len(shapes):
        raise ModelError(
            f"{folder}: config.json has {layers:,} layers, but the weights have only {len(shapes):,} tensors",
            "at least one tensor per layer",
            "restore the original config.json",
        )
    largest = max((size for shape in shapes for size in shape), default=1)
    for key, value in text.to_dict().items():
        if isinstance(value, int) and value > _largest_value(key, largest):
            raise ModelError(
                f"{folder}: config.json has {key} {value:,}, but no dimension of a weight is above {largest:,}",
                "sizes that match the weights",
                "restore the original config.json",
            )


SIZES = re.compile(r"size|dim|heads|experts|embd|inner|rank|channels")
LARGEST_RATIO = 64
"""Largest ratio of a config's size to the largest weight dimension. Packed weights are smaller than their sizes."""

LARGEST_POSITIONS = 10**8


SMALLEST_LIMIT = 65_536
"""Limit for small weights: some sizes belong to no weight, such as the attention window."""


def _largest_value(key: str, largest: int) -> float:
    """Largest allowed value of a config entry, for weights with dimensions of at most `largest`."""
    if SIZES.search(key):
        return max(LARGEST_RATIO * largest, SMALLEST_LIMIT)
    return LARGEST_POSITIONS if "position" in key else math.inf


def refuse_slow_quantisation(folder: Path) -> None:
    """Refuse a quantisation config with a regular expression that is too slow.

    Raises:
        ModelError: an expression takes too long, or a file is not valid safetensors.
    """
    settings = read_object(folder / "config.json").get("quantization_config")
    if settings is not None:
        names = [name for _, name in _weights(folder)]
        refuse_slow_patterns(f"{folder}/config.json, quantization_config", settings, names)


def _weights(folder: Path) -> Iterator[tuple[Any, str]]:
    """The open file and the name of every weight."""
    for file in (path for path in checkpoint_files(folder).values() if path.suffix == ".safetensors"):
        try:
            with safetensors.safe_open(file, framework="pt") as weights:
                yield from ((weights, name) for name in weights.keys())  # noqa: SIM118
        except (OSError, safetensors.SafetensorError) as error:
            raise ModelError(f"{file}: {error}", "weights in safetensors", "copy the checkpoint again") from error


def code_of(config: Mapping[str, Any]) -> list[str]:
    """Names of the code files in a checkpoint's config, such as `modeling_x.py`."""
    entries = config.get("auto_map")
    named = [
        reference
        for entry in (entries.values() if isinstance(entries, dict) else [entries])
        for reference in _references(entry)
    ]
    return sorted({reference.split("--")[-1].split(".")[0] + ".py" for reference in named})


def _references(entry: Any) -> list[str]:
    entries = entry if isinstance(entry, list | tuple) else [entry]
    return [reference for reference in entries if isinstance(reference, str)]


MOST_LABELS = 100_000


def refuse_odd_entries(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a config with invalid entries that transformers does not check.

    Raises:
        ModelError: model_type is not a string, architectures is not a list of strings, or num_labels is too large.
    """
    model_type, architectures = config.get("model_type"), config.get("architectures")
    labels = config.get("num_labels")
    if isinstance(labels, int) and labels > MOST_LABELS:
        raise ModelError(
            f"{name}: config.json has num_labels {labels:,}",
            f"at most {MOST_LABELS:,} labels",
            "restore the original config.json",
        )
    is_list = isinstance(architectures, list) and all(isinstance(each, str) for each in architectures)
    for key, value, fits in (
        ("model_type", model_type, model_type is None or isinstance(model_type, str)),
        ("architectures", architectures, architectures is None or is_list),
    ):
        if not fits:
            raise ModelError(
                f"{name}: config.json has {key} {str(value)[:40]!r}",
                "a string for model_type and a list of strings for architectures",
                "restore the original config.json",
            )


def refuse_code(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint with its own code, unless transformers supports its architecture.

    Raises:
        ModelError: the checkpoint needs its own code.
    """
    if config.get("model_type") in CONFIG_MAPPING:
        return
    if files := code_of(config):
        raise ModelError(
            f"{name} needs its own code, which is not run: {', '.join(files)}",
            "an architecture that transformers supports",
            "read that code, and add --trust-remote-code if you trust it",
        )


def refuse_other_models(name: str, config: Any) -> None:
    """Refuse models that are neither causal language models nor multimodal models with one as a part.

    Raises:
        ModelError: no architecture in the config is a causal language model.
    """
    causal = set()
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        causal.update([names] if isinstance(names, str) else names)
    causal.update(multimodal_architectures())
    architectures = getattr(config, "architectures", None) or []
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return
    other = [architecture for architecture in architectures if architecture not in causal]
    if getattr(config, "is_encoder_decoder", False) or (architectures and len(other) == len(architectures)):
        kind = ", ".join(architectures) or config.model_type
        raise ModelError(
            f"{name} is {kind}, not a causal language model",
            "a checkpoint with a ...ForCausalLM architecture",
            "use the policy that you will train; encoders, reward and embedding models have no response log-probs",
        )


def refuse_offloaded(name: str, model: nn.Module) -> None:
    """Refuse a model with offloaded weights, which are not available in the backward pass.

    Raises:
        ModelError: some weights are on disk, or on the CPU in addition to other devices.
    """
    devices = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    if "disk" in devices or ("cpu" in devices and len(devices) > 1):
        raise ModelError(
            f"{name} does not fit on the devices: parts would be on {', '.join(sorted(devices & {'cpu', 'disk'}))}",
            "devices that hold every weight",
            "use more devices, or --dtype bfloat16",
        )


def refuse_incomplete(name: str, loading: Mapping[str, Any]) -> None:
    """Refuse missing weights and weights with a wrong shape.

    Raises:
        ModelError: a weight is missing or has a wrong shape.
    """
    missing = sorted(loading.get("missing_keys") or [])
    mismatched = [entry[0] if isinstance(entry, tuple) else entry for entry in loading.get("mismatched_keys") or []]
    if missing or mismatched:
        wrong = [*missing, *map(str, mismatched)]
        raise ModelError(
            f"{name}: {len(wrong)} weight{'s' * (len(wrong) > 1)} missing or with a wrong shape, the first {wrong[0]}",
            "every weight of the architecture; missing ones would be random",
            "copy the checkpoint again, or restore the original config.json",
        )


NUM_NAMED = 3


def ignored_weights(names: Sequence[str]) -> str:
    """The warning for weights in a checkpoint's files that the model does not use."""
    groups = Counter(".".join(part for part in name.split(".")[:3] if not part.isdecimal()) for name in names)
    shown = ", ".join(f"{group} ({count:,})" for group, count in groups.most_common(NUM_NAMED))
    more = f" and {len(groups) - NUM_NAMED:,} more groups" if len(groups) > NUM_NAMED else ""
    one = len(names) == 1
    return (
        f"{len(names):,} weight{'' if one else 's'} in the files {'is' if one else 'are'} not used by the model, the "
        f"first {names[0]}: {shown}{more}"
    )


def refuse_not_finite(name: str, model: nn.Module) -> None:
    """Refuse NaN and infinite weights.

    Raises:
        ModelError: a weight is NaN or infinite.
    """
    for parameter_name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"{name}: {parameter_name} holds NaN or infinite values",
                "finite weights",
                "use an earlier checkpoint; this one cannot be trained further either",
            )
