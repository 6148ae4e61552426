"""What a checkpoint's config says: whether it can be measured, its limits, and how its weights are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from entangle_cli.data.checkpoint_checks import refuse_code, refuse_odd_entries, refuse_other_models
from entangle_cli.data.hub import offline
from entangle_cli.data.origin import Origin
from entangle_cli.errors import ModelError, is_out_of_memory
from entangle_cli.records.settings import LoadingSettings


def load_config(origin: Origin, loading: LoadingSettings) -> Any:
    """The config of a checkpoint that can be measured.

    Raises:
        ModelError: it cannot be read, needs code of its own, or is no causal language model.
    """
    with translated(origin, what="config"), offline(origin.local_only):
        plain, _ = PreTrainedConfig.get_config_dict(origin.source, revision=origin.revision)
    refuse_odd_entries(origin.name, plain if isinstance(plain, dict) else {})
    if not loading.trust_remote_code:
        refuse_code(origin.name, plain if isinstance(plain, dict) else {})
    with translated(origin, what="config"), offline(origin.local_only):
        config = AutoConfig.from_pretrained(
            origin.source,
            revision=origin.revision,
            trust_remote_code=loading.trust_remote_code,
        )
    refuse_other_models(origin.name, config)
    if quantisation(config) == "fp8":
        # On every device: its kernels have no gradients, and the same checkpoint must give the same numbers.
        _set_quantisation(config, {**_quantisation_config(config), "dequantize": True})
    return config


def quantisation(config: Any) -> str | None:
    """The method that the weights were quantised by, such as `fp8`, `gptq` or `compressed-tensors`; None for plain."""
    found = _quantisation_config(config)
    return str(found.get("quant_method", "an unnamed method")) if found else None


def _quantisation_config(config: Any) -> Mapping[str, Any]:
    found = getattr(config, "quantization_config", None)
    if found is None or isinstance(found, Mapping):
        return found or {}
    as_dict: Mapping[str, Any] = found.to_dict()
    return as_dict


def _set_quantisation(config: Any, settings: Mapping[str, Any]) -> None:
    config.quantization_config = dict(settings)


def position_limit(config: Any) -> int | None:
    """Sequence positions that have learned embeddings; None where positions are computed."""
    text = config.get_text_config()
    if text.model_type == "mpt":
        # Its linear biases come from a table of this length.
        return int(text.max_seq_len)
    computed = getattr(text, "rope_parameters", None) or getattr(text, "alibi", False)
    return None if computed else getattr(text, "max_position_embeddings", None)


def context_of(config: Any) -> int | None:
    """Tokens of the longest sequence that a model was made for; None where its config does not say."""
    text = config.get_text_config()
    found = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
    return found if isinstance(found, int) and found > 0 else None


def router_loss_coefficient(config: Any) -> float:
    """The factor of the router's auxiliary loss that TRL adds by default; 0.0 for a model without a router.

    As TRL 1.16's DPOTrainer decides it, where `router_aux_loss_coef` of its own settings is not given.
    """
    text = config.get_text_config()
    if not hasattr(text, "output_router_logits"):
        return 0.0
    found = getattr(text, "router_aux_loss_coef", None)
    return float(found) if isinstance(found, int | float) else 0.0


@contextmanager
def translated(origin: Origin, what: str = "checkpoint", config: Any = None) -> Iterator[None]:
    """Errors of the loading libraries as ours; their first line says what was wrong.

    Args:
        config: of the checkpoint, where it was read already: it names the quantisation.
    """
    try:
        yield
    except (torch.OutOfMemoryError, ModelError):
        raise
    except Exception as error:  # the libraries raise whatever the formats' readers do
        if is_out_of_memory(error):
            raise
        method = None if config is None else quantisation(config)
        if method is not None:
            raise _quantised(origin, method, error) from error
        reason = _first_line(error)
        if "trust_remote_code" in str(error):
            reason = "it needs code of its own, which is not run without --trust-remote-code"
        raise ModelError(
            f"{origin.name}: the {what} cannot be loaded: {reason}",
            "a causal LM with safetensors weights and a tokenizer, in a folder or reachable on the hub",
            "check the name and that all files are there",
        ) from error


def _quantised(origin: Origin, method: str, error: Exception) -> ModelError:
    return ModelError(
        f"{origin.name}: weights quantised by {method} cannot be loaded here: {_first_line(error)}",
        "float weights, block-FP8, or an adapter on a quantised base whose library is installed",
        "name the checkpoint that was quantised, or install what the message asks for",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    if "Error(s) in loading state_dict" in text and len(lines := text.splitlines()) > 1:
        return lines[1].strip()
    return text.splitlines()[0] if text else type(error).__name__
