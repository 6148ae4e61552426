"""The language model within a multimodal checkpoint. Training on text changes only this part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto import modeling_auto

MULTIMODAL_CLASSES = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM")
_MULTIMODAL_NAMES = ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES")


def multimodal_architectures() -> Mapping[str, str]:
    """Architecture name to model type, for architectures with multimodal input and text output."""
    architectures: dict[str, str] = {}
    for name in _MULTIMODAL_NAMES:
        for model_type, names in getattr(modeling_auto, name, {}).items():
            architectures.update(dict.fromkeys([names] if isinstance(names, str) else names, model_type))
    return architectures


def is_multimodal(config: Any) -> bool:
    """Whether a checkpoint's language model is one of several parts."""
    return config.get_text_config() is not config


def auto_class(config: Any, *, trust_remote_code: bool) -> Any:
    """The transformers class that loads a checkpoint, or only its language model if there is a class for that."""
    own_code = trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if own_code or type(config) in AutoModelForCausalLM._model_mapping:
        return AutoModelForCausalLM
    for name in MULTIMODAL_CLASSES:
        candidate: Any = getattr(transformers, name, None)
        if candidate is not None and type(config) in candidate._model_mapping:
            return candidate
    return AutoModelForCausalLM


def language_parameters(model: Any) -> frozenset[str] | None:
    """Names of the parameters that process text; None if all do.

    These are the parameters of the decoder and the output embedding. All others have zero gradients on text.
    """
    if not is_multimodal(model.config):
        return None
    parts = [part for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None]
    own = {id(parameter) for part in parts for parameter in part.parameters()}
    named = dict(model.named_parameters())
    language = frozenset(name for name, parameter in named.items() if id(parameter) in own)
    return language if language and len(language) < len(named) else None
