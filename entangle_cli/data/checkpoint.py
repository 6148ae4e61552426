"""A checkpoint and its tokenizer from a folder or the hub, checked before anything is computed with it."""

from __future__ import annotations

import hashlib
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

from entangle_cli.data.adapter import is_adapter, resized_to, with_adapter
from entangle_cli.data.checkpoint_checks import (
    code_of,
    ignored_weights,
    refuse_absent_weights,
    refuse_claimed_sizes,
    refuse_incomplete,
    refuse_not_finite,
    refuse_offloaded,
    refuse_other_models,
    refuse_slow_quantisation,
)
from entangle_cli.data.hub import offline
from entangle_cli.data.in_memory import ModelInMemory
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
from entangle_cli.data.tokenizer import load_tokenizer
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import LoadingSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model, its tokenizer, and what identifies both."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: Mapping[str, Any]
    """JSON-able: name, and the SHA-256 of each file or the hub's commit."""
    position_limit: int | None
    """Sequence positions that have learned embeddings; None where positions are computed."""
    context: int | None = None
    """Tokens of the longest sequence that the model was made for; None where its config does not say."""
    language_parameters: frozenset[str] | None = None
    """Of a multimodal model the names of the parameters that text passes through; None where these are all."""
    adapter_parameters: frozenset[str] = frozenset()
    """Names of the parameters that an adapter trains; empty for a plain checkpoint."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """Code to sentence: what a user should know about how it was loaded."""
    template_date: str | None = None
    """The day that the chat template takes for today, as YYYY-MM-DD; None where it asks for none."""
    training_step: int | None = None
    """Of a checkpoint that Trainer wrote, by its name."""


def check_dtype(name: str) -> None:
    """Refuse a dtype that cannot be measured in.

    Raises:
        UsageError: float16, or no dtype at all.
    """
    if name == "float16":
        raise UsageError(
            "--dtype float16: the gradient of a summed log-prob leaves its range, which ends at 65,504",
            "float32, bfloat16 or float64",
            "choose bfloat16, which takes as much memory and time",
        )
    if name not in DTYPES:
        raise UsageError(f"dtype {name!r}", "float32, bfloat16 or float64", "choose one of these")


def load_checkpoint(
    name: str,
    dtype: str,
    device: torch.device,
    loading: LoadingSettings | None = None,
    device_map: str | None = None,
) -> Checkpoint:
    """Load a causal LM for measuring, or a PEFT adapter on its base.

    Args:
        name: a folder, or a name on the hub; what looks like a path is never asked for on the hub. A folder that
            Trainer wrote its checkpoints to stands for the last of them.
        dtype: a key of `DTYPES`; what the weights are loaded as and computed in.
        device_map: a name of `device.DEVICE_MAPS` spreads the weights over devices; None puts them on `device`.
    Raises:
        ModelError: not there, not a causal LM, incomplete, not finite, or without a usable tokenizer.
        UsageError: a base for what is no adapter, or a revision of a folder.
    """
    loading = loading or LoadingSettings()
    origin = find_origin(name, loading)
    if origin.folder is not None and is_adapter(origin.folder):
        return _load_adapter(origin, origin.folder, dtype, device, loading, device_map)
    if loading.base_model is not None:
        raise UsageError(
            f"--base-model {loading.base_model}: {name} is a whole checkpoint",
            "a PEFT adapter as MODEL",
            "leave it out",
        )
    model, config, noted = _load_model(origin, dtype, loading, device_map)
    tokenizer = load_tokenizer(origin, loading)
    return Checkpoint(
        model=_placed(model, device, device_map),
        tokenizer=tokenizer.tokenizer,
        identity={**identity_of(origin), **tokenizer.identity},
        position_limit=position_limit(config),
        context=context_of(config),
        language_parameters=language_parameters(model),
        warnings={**noted, **tokenizer.warnings},
        template_date=tokenizer.template_date,
        training_step=None if origin.folder is None else step_of(origin.folder),
    )


def checkpoint_in_memory(given: ModelInMemory, dtype: str) -> Checkpoint:
    """A model that is loaded already, measured where it is; its weights are neither moved nor changed.

    It is put into evaluation mode. Of a PEFT model the base with its layers is measured.

    Args:
        dtype: what the settings ask for.
    Raises:
        ModelError: no causal language model, or weights that are not finite.
        UsageError: the weights are of another dtype.
    """
    model: Any = given.model
    is_adapted = hasattr(model, "peft_config") and hasattr(model, "get_base_model")
    if is_adapted:
        model = model.get_base_model()
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    config = model.config
    refuse_other_models(given.name, config)
    if (found := str(model.dtype).removeprefix("torch.")) != dtype:
        raise UsageError(
            f"dtype {dtype}, and the model's weights are {found}",
            "the dtype of the weights",
            f"set dtype={found!r}, or convert the model: model.to(torch.{dtype})",
        )
    refuse_not_finite(given.name, model)
    return Checkpoint(
        model=model.eval(),
        tokenizer=given.tokenizer,
        identity={"name": given.name, "sha256": _weights_sha256(model)},
        position_limit=position_limit(config),
        context=context_of(config),
        adapter_parameters=frozenset(trained if is_adapted else ()),
        language_parameters=language_parameters(model),
    )


def _weights_sha256(model: nn.Module) -> str:
    """A hash of the weights' bytes, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _placed(model: nn.Module, device: torch.device, device_map: str | None) -> PreTrainedModel:
    placed = (model if device_map is not None else model.to(device)).eval()
    assert isinstance(placed, PreTrainedModel)
    return placed


def _load_adapter(
    own: Origin, adapter: Path, dtype: str, device: torch.device, loading: LoadingSettings, device_map: str | None
) -> Checkpoint:
    base = base_origin(adapter, loading)
    plain, config, noted = _load_model(base, dtype, loading, device_map)
    tokenizer = load_tokenizer(own if has_tokenizer(adapter) else base, loading)
    if has_tokenizer(adapter):
        noted |= resized_to(plain, len(tokenizer.tokenizer), adapter)
    loaded = with_adapter(plain, adapter)
    model = loaded.model
    if dtype != "bfloat16":
        # Under bfloat16 PEFT keeps adapters in float32, in training too.
        for parameter_name, parameter in model.named_parameters():
            if parameter_name in loaded.parameters:
                parameter.data = parameter.data.to(DTYPES[dtype])
    refuse_not_finite(own.name, model)
    if loaded.ignored:
        noted["W-IGNORED-WEIGHTS"] = ignored_weights(loaded.ignored)
    return Checkpoint(
        model=_placed(model, device, device_map),
        tokenizer=tokenizer.tokenizer,
        identity={**identity_of(own), "base": identity_of(base), **tokenizer.identity},
        position_limit=position_limit(config),
        context=context_of(config),
        adapter_parameters=loaded.parameters,
        language_parameters=language_parameters(model),
        warnings={**noted, **tokenizer.warnings},
        template_date=tokenizer.template_date,
        training_step=step_of(adapter),
    )


def _load_model(
    origin: Origin, dtype: str, loading: LoadingSettings, device_map: str | None
) -> tuple[PreTrainedModel, Any, dict[str, str]]:
    """A model, its config, and warnings on how it was loaded, code to sentence."""
    config = load_config(origin, loading)
    if origin.folder is not None:
        refuse_absent_weights(origin.folder, pickled_weights=loading.pickled_weights)
        refuse_claimed_sizes(origin.folder, config)
        refuse_slow_quantisation(origin.folder)
    with translated(origin, config=config), offline(origin.local_only):
        # With this flag the stubs' single result is really a pair.
        loaded: Any = auto_class(config, trust_remote_code=loading.trust_remote_code).from_pretrained(
            origin.source,
            config=config,
            revision=origin.revision,
            dtype=DTYPES[dtype],
            # Safetensors go first in any case; pickles are unpickled by torch's weights-only loading.
            use_safetensors=None if loading.pickled_weights else True,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are in the loading info, and refused by name
            trust_remote_code=loading.trust_remote_code,
            attn_implementation=loading.attn_implementation,
            device_map=device_map,
        )
        model, about = loaded
    refuse_offloaded(origin.name, model)
    refuse_incomplete(origin.name, about)
    noted = _warnings(origin, config, model, about, loading)
    if quantisation(config) is not None and not is_quantised(model):
        # Dequantised weights keep the dtype that their scales gave them.
        model.to(DTYPES[dtype])
        noted["W-DEQUANTISED"] = f"weights quantised by {quantisation(config)} were dequantised to {dtype}"
    refuse_not_finite(origin.name, model)
    return model, config, noted


def is_quantised(model: nn.Module) -> bool:
    """Whether transformers keeps the weights in a quantised form."""
    return getattr(model, "quantization_method", None) is not None


def _warnings(
    origin: Origin, config: Any, model: Any, about: Mapping[str, Any], loading: LoadingSettings
) -> dict[str, str]:
    found = {}
    if loading.trust_remote_code and (files := code_of(config.to_dict())):
        found["W-REMOTE-CODE"] = f"code that came with the checkpoint was run: {', '.join(files)}"
    if origin.folder is not None and not any(origin.folder.glob("*.safetensors")):
        found["W-PICKLED"] = "the weights were read from pickles, by weights-only loading; safetensors hold no code"
    if ignored := sorted(map(str, about.get("unexpected_keys") or [])):
        found["W-IGNORED-WEIGHTS"] = ignored_weights(ignored)
    if is_multimodal(config):
        found["W-LANGUAGE-PART"] = (
            f"a multimodal checkpoint ({', '.join(config.architectures or [config.model_type])}): its language model "
            f"alone is measured, loaded as {type(model).__name__}, on text"
        )
    if coefficient := router_loss_coefficient(config):
        found["W-ROUTER-LOSS"] = (
            f"a mixture of experts: TRL adds the router's auxiliary loss times {coefficient:g} by default "
            "(router_aux_loss_coef), whose gradient is not part of these numbers"
        )
    return found


QUIET_LOGGERS = ("peft", "bitsandbytes", "accelerate", "torchao")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No loading bars, log lines or warnings of the libraries inside; their settings as they were afterwards."""
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
    """Versions of what decides numbers and tokens."""
    import datasets
    import tokenizers

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "datasets": datasets.__version__,
    }
