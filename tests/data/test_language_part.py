"""Multimodal checkpoints: text is measured on their language model, with the same result as on the whole model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from entangle_cli.data.checkpoint import load_checkpoint, quiet_libraries
from entangle_cli.data.parameters import select_parameters
from entangle_cli.engine.engine import Engine
from entangle_cli.engine.per_response import response_log_prob
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse
from tests.data.tokenizers import small_tokenizer
from tests.true_float64 import TrueFloat64

TEXT: dict[str, Any] = {
    "vocab_size": 360,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
QWEN_IDS = {"image_token_id": 359, "video_token_id": 358, "vision_start_token_id": 357, "vision_end_token_id": 356}


def llava() -> PreTrainedModel:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=359,
    )
    return transformers.LlavaForConditionalGeneration(config)


def mistral3() -> PreTrainedModel:
    config = transformers.Mistral3Config(
        vision_config=transformers.PixtralVisionConfig(**VISION),
        text_config=transformers.MistralConfig(**TEXT, head_dim=8),
        image_token_index=359,
    )
    return transformers.Mistral3ForConditionalGeneration(config)


def qwen2_5_vl() -> PreTrainedModel:
    rotary = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={**QWEN_VISION, "patch_size": 14, "fullatt_block_indexes": [0]},
        text_config={**TEXT, "rope_parameters": rotary},
        **QWEN_IDS,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen3_5() -> PreTrainedModel:
    linear = {f"linear_{kind}": 8 for kind in ("key_head_dim", "value_head_dim")}
    heads = {f"linear_num_{kind}_heads": 2 for kind in ("key", "value")}
    config = transformers.Qwen3_5Config(
        vision_config=QWEN_VISION,
        text_config={**TEXT, "num_hidden_layers": 4, "head_dim": 8, **linear, **heads},
        **QWEN_IDS,
    )
    return transformers.Qwen3_5ForConditionalGeneration(config)


def llama4() -> PreTrainedModel:
    sizes = {f"{name}_dim": 32 for name in ("vision_output", "projector_input", "projector_output")}
    config = transformers.Llama4Config(
        vision_config={**VISION, **sizes, "intermediate_size": 128},
        text_config={**TEXT, "intermediate_size_mlp": 32, "num_local_experts": 2, "head_dim": 8},
    )
    return transformers.Llama4ForConditionalGeneration(config)


def gemma3() -> PreTrainedModel:
    config = transformers.Gemma3Config(
        vision_config=VISION, text_config={**TEXT, "head_dim": 8}, image_token_index=359, mm_tokens_per_image=4
    )
    return transformers.Gemma3ForConditionalGeneration(config)


PAIR = TokenizedPair(
    TokenizedResponse((1, 20, 30, 40, 50, 60), 3),
    TokenizedResponse((1, 20, 30, 41, 51), 3),
)
KINDS: dict[str, Callable[[], PreTrainedModel]] = {
    "llava": llava,
    "mistral3": mistral3,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_5": qwen3_5,
    "llama4": llama4,
    "gemma3": gemma3,
}
WHOLE_IS_LOADED = {"llava", "mistral3", "qwen2_5_vl", "gemma3"}
"""Kinds without a transformers class for the language model alone."""


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_measured_on_the_language_model(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = KINDS[kind]().double().eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.normal_(0.0, 0.1)
    whole.save_pretrained(tmp_path)
    small_tokenizer().save_pretrained(tmp_path)
    with TrueFloat64(), quiet_libraries():
        checkpoint = load_checkpoint(str(tmp_path), "float64", torch.device("cpu"))
        parameters = select_parameters(checkpoint, "all")
        assert not any("vision" in name or "visual" in name or "projector" in name for name in parameters)
        with Engine(checkpoint.model, parameters) as engine:
            (measured,) = engine.measure([PAIR])
        log_prob = response_log_prob(whole, PAIR.chosen)
        log_prob.backward()
    assert type(whole).__name__ in checkpoint.warnings["W-LANGUAGE-PART"]
    assert (type(checkpoint.model) is type(whole)) == (kind in WHOLE_IS_LOADED)
    assert measured.chosen_log_prob == pytest.approx(log_prob.item(), rel=1e-9)
    # Text has gradients only in the language model, so its gradient is that of the whole model.
    squared = sum(float(p.grad.square().sum()) for p in whole.parameters() if p.grad is not None)
    assert measured.chosen_squared_norm == pytest.approx(squared, rel=1e-8)
