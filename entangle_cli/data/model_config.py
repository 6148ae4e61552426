"""Reads a checkpoint's config: checks that the model is supported, and returns its limits and quantisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from entangle_cli.data.checkpoint_checks import refuse_code, refuse_odd_entries, refuse_other_models
from entangle_cli.data.hub import offline
from entangle_cli.data.origin import Origin
from entangle_cli.errors import ModelError, is_out_of_memory
from entangle_cli.records.settings import LoadingSettings


def load_config(origin: Origin, loading: LoadingSettings) -> Any:
    """Load and check the config of a checkpoint.

    Raises:
        ModelError: the config cannot be read, the checkpoint needs its own code, or it is not a causal language model.
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
        # Dequantise on every device: its kernels have no gradients, and results must not depend on the device.
        _set_quantisation(config, {**_quantisation_config(config), "dequantize": True})
    return config


def quantisation(config: Any) -> str | None:
    """The quantisation method, such as `fp8`, `gptq` or `compressed-tensors`; None for plain weights."""
    settings = _quantisation_config(config)
    return str(settings.get("quant_method", "an unnamed method")) if settings else None


def _quantisation_config(config: Any) -> Mapping[str, Any]:
    settings = getattr(config, "quantization_config", None)
    if settings is None or isinstance(settings, Mapping):
        return settings or {}
    as_dict: Mapping[str, Any] = settings.to_dict()
    return as_dict


def _set_quantisation(config: Any, settings: Mapping[str, Any]) -> None:
    config.quantization_config = dict(settings)


def position_limit(config: Any) -> int | None:
    """Number of learned position embeddings; None if positions are computed."""
    text = config.get_text_config()
    if text.model_type == "mpt":
        # MPT's linear biases come from a table of this length.
        return int(text.max_seq_len)
    computed = getattr(text, "rope_parameters", None) or getattr(text, "alibi", False)
    return None if computed else getattr(text, "max_position_embeddings", None)


def context_of(config: Any) -> int | None:
    """The model's context length in tokens; None if its config does not state one."""
    text = config.get_text_config()
    length = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
    return length if isinstance(length, int) and length > 0 else None


def router_loss_coefficient(config: Any) -> float:
    """Coefficient of the router's auxiliary loss that TRL adds by default; 0.0 for a model without a router.

    The value follows TRL 1.16's DPOTrainer without `router_aux_loss_coef` in its settings.
    """
    text = config.get_text_config()
    if not hasattr(text, "output_router_logits"):
        return 0.0
    coefficient = getattr(text, "router_aux_loss_coef", None)
    return float(coefficient) if isinstance(coefficient, int | float) else 0.0


@contextmanager
def translated(origin: Origin, what: str = "checkpoint", config: Any = None) -> Iterator[None]:
    """Convert errors of the loading libraries to ModelError, with their first line as the cause.

    Args:
        config: the checkpoint's config if it was already read. It gives the quantisation method.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the libraries can raise any exception of their file readers
        if is_out_of_memory(error):
            raise
        method = None if config is None else quantisation(config)
        if method is not None:
            raise _quantised(origin, method, error) from error
        reason = _first_line(error)
        if "trust_remote_code" in str(error):
            reason = "it needs its own code, which is not run without --trust-remote-code"
        raise ModelError(
            f"{origin.name}: the {what} cannot be loaded: {reason}",
            "a causal LM with safetensors weights and a tokenizer, in a folder or reachable on the hub",
            "check the name, and that the folder or hub repository has all files",
        ) from error


def _quantised(origin: Origin, method: str, error: Exception) -> ModelError:
    return ModelError(
        f"{origin.name}: weights quantised by {method} cannot be loaded here: {_first_line(error)}",
        "float or block-FP8 weights, or an adapter on a quantised base with its library installed",
        "use the original, unquantised checkpoint, or install the library named in the message",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    if "Error(s) in loading state_dict" in text and len(lines := text.splitlines()) > 1:
        return lines[1].strip()
    return text.splitlines()[0] if text else type(error).__name__
