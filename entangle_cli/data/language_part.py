"""The language model within a multimodal checkpoint, which is what training on text moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto import modeling_auto

MULTIMODAL_CLASSES = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM")
_MULTIMODAL_NAMES = ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES")


def multimodal_architectures() -> Mapping[str, str]:
    """Names of the architectures that read more than text and write text, each with its model type."""
    found: dict[str, str] = {}
    for name in _MULTIMODAL_NAMES:
        for model_type, names in getattr(modeling_auto, name, {}).items():
            found.update(dict.fromkeys([names] if isinstance(names, str) else names, model_type))
    return found


def is_multimodal(config: Any) -> bool:
    """Whether a checkpoint has a language model as one part of several."""
    return config.get_text_config() is not config


def auto_class(config: Any, *, trust_remote_code: bool) -> Any:
    """The class of transformers that loads a checkpoint: its language model alone where there is a class for that."""
    own_code = trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if own_code or type(config) in AutoModelForCausalLM._model_mapping:
        return AutoModelForCausalLM
    for name in MULTIMODAL_CLASSES:
        found: Any = getattr(transformers, name, None)
        if found is not None and type(config) in found._model_mapping:
            return found
    return AutoModelForCausalLM


def language_parameters(model: Any) -> frozenset[str] | None:
    """Names of the parameters that text passes through; None where these are all.

    They are those of the decoder and of the output embedding. Text moves no other one: its gradient is zero.
    """
    if not is_multimodal(model.config):
        return None
    parts = [part for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None]
    own = {id(parameter) for part in parts for parameter in part.parameters()}
    named = dict(model.named_parameters())
    found = frozenset(name for name, parameter in named.items() if id(parameter) in own)
    return found if found and len(found) < len(named) else None
