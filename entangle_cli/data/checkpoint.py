"""Loads a checkpoint and its tokenizer from a folder or the hub, and validates them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from entangle_cli.data.adapter import cast_adapter, is_adapter, resized_to, with_adapter
from entangle_cli.data.checkpoint_checks import (
    code_of,
    ignored_weights,
    refuse_absent_weights,
    refuse_claimed_sizes,
    refuse_incomplete,
    refuse_not_finite,
    refuse_offloaded,
    refuse_slow_quantisation,
)
from entangle_cli.data.device import loading_map
from entangle_cli.data.hub import offline
from entangle_cli.data.language_part import auto_class, is_multimodal, language_parameters
from entangle_cli.data.model_config import (
    context_of,
    load_config,
    position_limit,
    quantisation,
    router_loss_coefficient,
    translated,
)
from entangle_cli.data.origin import Origin, base_origin, find_origin, has_tokenizer, identity_of
from entangle_cli.data.series import step_of
from entangle_cli.data.tokenizer import TokenizerOfModel, load_tokenizer
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import LoadingSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model and its tokenizer, with their identity."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: Mapping[str, Any]
    """Name, and the SHA-256 of every file or the hub's commit; JSON-able."""
    position_limit: int | None
    """Number of learned position embeddings; None if positions are computed."""
    context: int | None = None
    """The model's context length in tokens; None if its config does not state one."""
    language_parameters: frozenset[str] | None = None
    """Names of a multimodal model's parameters that process text; None if all do."""
    adapter_parameters: frozenset[str] = frozenset()
    """Names of the parameters that an adapter trains; empty for a plain checkpoint."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """Warning code to message, about loading the checkpoint."""
    template_date: str | None = None
    """Date used by the chat template, as YYYY-MM-DD; None if it uses no date."""
    training_step: int | None = None
    """Training step in the name of a Trainer checkpoint; None for other names."""
    stored_dtype: str | None = None
    """Dtype of the weights by the model's config; None if it states none."""

    @property
    def num_embeddings(self) -> int | None:
        """Number of token embeddings; None if unknown."""
        return getattr(self.model.get_input_embeddings(), "num_embeddings", None)

    @property
    def tokenizer_of_model(self) -> TokenizerOfModel:
        """The tokenizer, and the model's limits."""
        return TokenizerOfModel(self.tokenizer, {}, self.position_limit, self.context, self.num_embeddings)


def check_dtype(name: str) -> None:
    """Refuse an unsupported dtype.

    Raises:
        UsageError: the dtype is float16 or unknown.
    """
    if name == "float16":
        raise UsageError(
            "--dtype float16: gradients of summed log-probs exceed its largest value, 65,504",
            "float32, bfloat16 or float64",
            "use --dtype bfloat16, which needs the same memory and time",
        )
    if name not in DTYPES:
        raise UsageError(f"dtype {name!r}", "float32, bfloat16 or float64", "use one of these")


def load_checkpoint(
    name: str,
    dtype: str,
    device: torch.device,
    loading: LoadingSettings | None = None,
    device_map: str | None = None,
) -> Checkpoint:
    """Load a causal LM, or a PEFT adapter on its base.

    Args:
        name: a folder or a hub name. The hub is never queried for a path. For a folder with Trainer checkpoints, the
            last one is loaded.
        dtype: a key of `DTYPES`, the dtype of the weights and of the computation.
        device_map: a name of `device.DEVICE_MAPS` to spread the weights over devices; None puts them on `device`.
    Raises:
        ModelError: the checkpoint is missing, not a causal LM, incomplete, not finite, or has no usable tokenizer.
        UsageError: a base is given for a whole checkpoint, or a revision for a folder.
    """
    loading = loading or LoadingSettings()
    origin = find_origin(name, loading)
    if origin.folder is not None and is_adapter(origin.folder):
        return _load_adapter(origin, origin.folder, dtype, device, loading, device_map)
    if loading.base_model is not None:
        raise UsageError(
            f"--base-model {loading.base_model}: {name} is a whole checkpoint",
            "a PEFT adapter as MODEL",
            "omit --base-model",
        )
    model, config, messages = _load_model(origin, dtype, loading, loading_map(device, device_map))
    tokenizer = load_tokenizer(origin, loading)
    return Checkpoint(
        model=_placed(origin.name, model, device, device_map),
        tokenizer=tokenizer.tokenizer,
        identity={**identity_of(origin), **tokenizer.identity},
        position_limit=position_limit(config),
        context=context_of(config),
        language_parameters=language_parameters(model),
        warnings={**messages, **tokenizer.warnings},
        template_date=tokenizer.template_date,
        training_step=None if origin.folder is None else step_of(origin.folder),
        stored_dtype=_stored_dtype(config),
    )


def _stored_dtype(config: Any) -> str | None:
    dtype = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _placed(name: str, model: nn.Module, device: torch.device, device_map: str | None) -> PreTrainedModel:
    """The model on its device, in evaluation mode. Its weights are checked there: a GPU reads them far faster."""
    placed = (model if device_map is not None else model.to(device)).eval()
    assert isinstance(placed, PreTrainedModel)
    refuse_not_finite(name, placed)
    return placed


def _load_adapter(
    own: Origin, adapter: Path, dtype: str, device: torch.device, loading: LoadingSettings, device_map: str | None
) -> Checkpoint:
    base = base_origin(adapter, loading)
    plain, config, messages = _load_model(base, dtype, loading, loading_map(device, device_map))
    tokenizer = load_tokenizer(own if has_tokenizer(adapter) else base, loading)
    if has_tokenizer(adapter):
        messages |= resized_to(plain, len(tokenizer.tokenizer), adapter)
    loaded = with_adapter(plain, adapter)
    model = loaded.model
    cast_adapter(model, loaded.parameters, DTYPES[dtype])
    if loaded.ignored:
        messages["W-IGNORED-WEIGHTS"] = ignored_weights(loaded.ignored)
    return Checkpoint(
        model=_placed(own.name, model, device, device_map),
        tokenizer=tokenizer.tokenizer,
        identity={**identity_of(own), "base": identity_of(base), **tokenizer.identity},
        position_limit=position_limit(config),
        context=context_of(config),
        adapter_parameters=loaded.parameters,
        language_parameters=language_parameters(model),
        warnings={**messages, **tokenizer.warnings},
        template_date=tokenizer.template_date,
        training_step=step_of(adapter),
        stored_dtype=_stored_dtype(config),
    )


def _load_model(
    origin: Origin, dtype: str, loading: LoadingSettings, device_map: str | dict[str, torch.device] | None
) -> tuple[PreTrainedModel, Any, dict[str, str]]:
    """Load a model. Returns it with its config and warnings (code to message)."""
    config = load_config(origin, loading)
    if origin.folder is not None:
        refuse_absent_weights(origin.folder, pickled_weights=loading.pickled_weights)
        refuse_claimed_sizes(origin.folder, config)
        refuse_slow_quantisation(origin.folder)
    with translated(origin, config=config), offline(origin.local_only):
        # With output_loading_info the result is a pair, unlike in the type stubs.
        loaded: Any = auto_class(config, trust_remote_code=loading.trust_remote_code).from_pretrained(
            origin.source,
            config=config,
            revision=origin.revision,
            dtype=DTYPES[dtype],
            # Safetensors always take precedence. Pickles use torch's weights-only loading.
            use_safetensors=None if loading.pickled_weights else True,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # lists them in the loading info, and refuse_incomplete names them
            trust_remote_code=loading.trust_remote_code,
            attn_implementation=loading.attn_implementation,
            device_map=device_map,
        )
        model, loading_info = loaded
    refuse_offloaded(origin.name, model)
    refuse_incomplete(origin.name, loading_info)
    messages = _warnings(origin, config, model, loading_info, loading)
    if quantisation(config) is not None and not is_quantised(model):
        # Dequantised weights have the dtype of their scales.
        model.to(DTYPES[dtype])
        messages["W-DEQUANTISED"] = f"weights quantised by {quantisation(config)} were dequantised to {dtype}"
    return model, config, messages


def is_quantised(model: nn.Module) -> bool:
    """Whether the model's weights are quantised."""
    return getattr(model, "quantization_method", None) is not None


def _warnings(
    origin: Origin, config: Any, model: Any, loading_info: Mapping[str, Any], loading: LoadingSettings
) -> dict[str, str]:
    messages = {}
    if loading.trust_remote_code and (files := code_of(config.to_dict())):
        messages["W-REMOTE-CODE"] = f"the checkpoint's own code was run: {', '.join(files)}"
    if origin.folder is not None and not any(origin.folder.glob("*.safetensors")):
        messages["W-PICKLED"] = (
            "the weights were loaded from pickles in weights-only mode; safetensors cannot hold code"
        )
    if ignored := sorted(map(str, loading_info.get("unexpected_keys") or [])):
        messages["W-IGNORED-WEIGHTS"] = ignored_weights(ignored)
    if is_multimodal(config):
        messages["W-LANGUAGE-PART"] = (
            f"a multimodal checkpoint ({', '.join(config.architectures or [config.model_type])}): only its language "
            f"model is measured, on text, loaded as {type(model).__name__}"
        )
    if coefficient := router_loss_coefficient(config):
        messages["W-ROUTER-LOSS"] = (
            f"a mixture of experts: by default TRL adds the router's auxiliary loss times {coefficient:g} "
            "(router_aux_loss_coef); these numbers do not include its gradient"
        )
    return messages


QUIET_LOGGERS = ("peft", "bitsandbytes", "accelerate", "torchao", "trl")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence progress bars, logs and warnings of the libraries inside the block. Restore the settings afterwards."""
    own: Any = transformers.utils.logging
    verbosity, bars = own.get_verbosity(), own.is_progress_bar_enabled()
    own.set_verbosity_error()
    own.disable_progress_bar()
    levels = {name: logging.getLogger(name).level for name in QUIET_LOGGERS}
    try:
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        own.set_verbosity(verbosity)
        if bars:
            own.enable_progress_bar()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that affect numbers and tokens."""
    import datasets
    import tokenizers

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "datasets": datasets.__version__,
    }
