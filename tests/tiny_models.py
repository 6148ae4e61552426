"""Tiny seeded models of the families people train, built from their configs: no network, milliseconds to run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 61

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    **SPECIAL,
}
GROUPED = {**DECODER, "num_key_value_heads": 2}

FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=24, n_layer=2, n_head=4, n_positions=128, **SPECIAL),
    "llama": lambda: LlamaConfig(**GROUPED),
    "llama-tied-biased": lambda: LlamaConfig(**GROUPED, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=6),
    "qwen2": lambda: Qwen2Config(**GROUPED),
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=8, tie_word_embeddings=True),
    "gemma2": lambda: Gemma2Config(
        **GROUPED, head_dim=8, sliding_window=6, final_logit_softcapping=3.0, attn_logit_softcapping=5.0
    ),
    "gemma3": lambda: Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=6),
    "phi3": lambda: Phi3Config(**GROUPED),
    "gpt-neox": lambda: GPTNeoXConfig(**DECODER),
    "opt": lambda: OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        ffn_dim=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=16,
        max_position_embeddings=128,
        **SPECIAL,
    ),
}


def tiny_model(family: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """A tiny model of a family, every parameter random: none of the zeros and ones that hide mistakes."""
    torch.manual_seed(seed)
    # Eager attention: fused kernels have no float64 form with softcaps, and their rounding depends on neighbours.
    model = AutoModelForCausalLM.from_config(FAMILIES[family](), attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype).eval()
