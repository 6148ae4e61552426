"""PEFT adapters: finding the base checkpoint and loading the adapter into it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from transformers import PreTrainedModel

from entangle_cli.data.checkpoint_files import read_object
from entangle_cli.data.patterns import refuse_slow_patterns
from entangle_cli.errors import ModelError, is_out_of_memory


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a whole checkpoint."""
    return (folder / "adapter_config.json").is_file()


def base_of(folder: Path) -> str:
    """Name of the base checkpoint that an adapter was trained on.

    Raises:
        ModelError: the adapter's config names no base.
    """
    base = read_object(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{folder}/adapter_config.json names no base checkpoint",
            "base_model_name_or_path",
            "give the base with --base-model",
        )
    return base


class LoadedAdapter(NamedTuple):
    """A base model with an adapter's layers."""

    model: PreTrainedModel
    parameters: frozenset[str]
    """Names of the parameters that the adapter trains."""
    ignored: Sequence[str]
    """Names of the weights in the adapter's file that no layer uses."""


WEIGHTS = "adapter_model.safetensors"


def cast_adapter(model: PreTrainedModel, names: frozenset[str], dtype: torch.dtype) -> None:
    """Cast an adapter's parameters in place. With bfloat16, PEFT keeps them in float32, also in training."""
    if dtype is not torch.bfloat16:
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.data = parameter.data.to(dtype)


def with_adapter(base: PreTrainedModel, folder: Path) -> LoadedAdapter:
    """Load an adapter's layers into a base model.

    Raises:
        ModelError: peft is not installed, the adapter does not fit the base, or it is not made of layers.
    """
    try:
        import peft
    except ImportError as error:
        raise ModelError(
            f"{folder} is a PEFT adapter, and peft is not installed",
            "the package peft",
            "pip install 'entangle-cli[peft]', or merge the adapter into its base",
        ) from error
    config = read_object(folder / "adapter_config.json")
    _refuse_unsafe(folder, config)
    refuse_slow_patterns(f"{folder}/adapter_config.json", config, [name for name, _ in base.named_modules()])
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: no {WEIGHTS}", "adapter weights in safetensors", "save the adapter again")
    adapted: Any = _loaded(peft, base, folder)
    whole: Any = adapted.get_base_model()
    assert isinstance(whole, PreTrainedModel)
    parameters = frozenset(name for name, parameter in whole.named_parameters() if parameter.requires_grad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        used = peft.get_peft_model_state_dict(adapted, save_embedding_layers=True)
    return LoadedAdapter(whole, parameters, sorted(_weight_names(folder) - used.keys()))


MEGATRON = "megatron.core"


def _refuse_unsafe(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config that makes PEFT import an arbitrary module or allocate more than its weights need.

    Raises:
        ModelError: the config has another `megatron_core`, `layer_replication`, or a rank larger than any weight.
    """
    if config.get("megatron_core") not in (None, MEGATRON):
        raise ModelError(
            f"{folder}/adapter_config.json: megatron_core {str(config['megatron_core'])!r} would be imported as code",
            f"no megatron_core, or {MEGATRON}",
            "remove the entry if you trust the rest of the adapter",
        )
    if config.get("layer_replication") is not None:
        raise ModelError(
            f"{folder}/adapter_config.json: layer_replication repeats layers of the base",
            "an adapter on the base's own layers",
            "merge the adapter into its base and measure the merged checkpoint",
        )
    pattern = config.get("rank_pattern")
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    largest = max((rank for rank in ranks if isinstance(rank, int)), default=0)
    if (folder / WEIGHTS).is_file() and largest > (largest_size := _largest_dimension(folder)):
        raise ModelError(
            f"{folder}/adapter_config.json: rank {largest:,}, but no dimension of {WEIGHTS} is above {largest_size:,}",
            "the rank used in the adapter's training",
            "restore the original adapter_config.json",
        )


def _largest_dimension(folder: Path) -> int:
    with _opened_weights(folder) as file:
        return max((size for name in file.keys() for size in file.get_slice(name).get_shape()), default=0)  # noqa: SIM118


@contextmanager
def _opened_weights(folder: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(folder / WEIGHTS, framework="pt") as file:
            yield file
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(
            f"{folder / WEIGHTS}: {error}", "adapter weights in safetensors", "save the adapter again"
        ) from error


def _weight_names(folder: Path) -> set[str]:
    with _opened_weights(folder) as file:
        return set(file.keys())


def resized_to(base: PreTrainedModel, num_tokens: int, folder: Path) -> dict[str, str]:
    """Resize a base's embeddings to its adapter's tokenizer, as `AutoPeftModelForCausalLM` does.

    Returns:
        Warning code to message if new rows were initialised at random; else empty.
    """
    table: Any = base.get_input_embeddings()
    before = int(table.weight.shape[0])
    if num_tokens <= before:
        return {}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # random rows must be the same in every scan
        base.resize_token_embeddings(num_tokens)
    if any("embed" in name or "lm_head" in name for name in _weight_names(folder)):
        return {}
    return {
        "W-RESIZED": f"the vocabulary was resized from {before:,} to {num_tokens:,} tokens for the adapter's "
        f"tokenizer, but the adapter has no embeddings: {num_tokens - before:,} rows are random"
    }


def _refuse_prompts(folder: Path, config: Any) -> None:
    if config.is_prompt_learning:
        raise ModelError(
            f"{folder} is a {config.peft_type.value} adapter, which adds tokens instead of layers",
            "an adapter made of layers, such as LoRA",
            "measure the base, or train a LoRA adapter",
        )


def _loaded(peft: Any, base: PreTrainedModel, folder: Path) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _refuse_prompts(folder, peft.PeftConfig.from_pretrained(str(folder)))
            adapted = peft.PeftModel.from_pretrained(base, str(folder), is_trainable=True)
        except Exception as error:  # PEFT and the weight reader can raise any exception
            if isinstance(error, ModelError) or is_out_of_memory(error):
                raise
            raise ModelError(
                f"{folder}: the adapter does not fit its base: {_first_cause(error)}",
                "an adapter of this base checkpoint",
                "give the right base with --base-model",
            ) from error
    for warning in caught:
        # PEFT only warns and leaves those layers at their initial values.
        if "missing adapter keys" in str(warning.message):
            raise ModelError(
                f"{folder}: {str(warning.message).splitlines()[0][:300]}",
                "a weight for every adapter layer; missing ones would be random",
                "restore the missing weights, or give the right base with --base-model",
            )
    return adapted


def _first_cause(error: Exception) -> str:
    """The first informative line of a message, without torch's heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("Error(s) in loading")), type(error).__name__)
