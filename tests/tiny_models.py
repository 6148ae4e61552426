"""Tiny seeded models of the families people train, built from their configs: no network, milliseconds to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 61

SPECIAL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

DECODER = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    **SPECIAL,
}
GROUPED = {**DECODER, "num_key_value_heads": 2}
WINDOWED = {**GROUPED, "sliding_window": 6}
WIDE_HEADS = {**GROUPED, "head_dim": 8}
OLDER = {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 128, **SPECIAL}

ROUTED = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
SHARED_EXPERT = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
LATENT_ATTENTION = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 6,
}
STATE_SPACE = {"hidden_size": 24, "num_hidden_layers": 2, "state_size": 4, **SPECIAL}

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gpt2": ("gpt2", OLDER),
    "llama": ("llama", GROUPED),
    "llama-tied-biased": (
        "llama",
        {**GROUPED, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "mistral": ("mistral", WINDOWED),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", {**WIDE_HEADS, "tie_word_embeddings": True}),
    "gemma": ("gemma", WIDE_HEADS),
    "gemma2": (
        "gemma2",
        {**WINDOWED, "head_dim": 8, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0},
    ),
    "gemma3": ("gemma3_text", {**WINDOWED, "head_dim": 8}),
    "phi": ("phi", {**GROUPED, "hidden_size": 32}),
    "phi3": ("phi3", GROUPED),
    "gpt-neox": ("gpt_neox", DECODER),
    "opt": (
        "opt",
        {
            "hidden_size": 24,
            "ffn_dim": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 16,
            "max_position_embeddings": 128,
            **SPECIAL,
        },
    ),
    "gpt-j": ("gptj", {**OLDER, "rotary_dim": 4}),
    "gpt-neo": (
        "gpt_neo",
        {
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 6,
            "max_position_embeddings": 128,
            **SPECIAL,
        },
    ),
    "gpt-bigcode": ("gpt_bigcode", OLDER),
    "codegen": ("codegen", {**OLDER, "n_embd": 32, "rotary_dim": 4}),
    "bloom": ("bloom", {"hidden_size": 24, "n_layer": 2, "n_head": 4, **SPECIAL}),
    "falcon": ("falcon", {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, **SPECIAL}),
    "falcon-alibi": (
        "falcon",
        {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True, **SPECIAL},
    ),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128, **SPECIAL}),
    "cohere": ("cohere", {**GROUPED, "use_qk_norm": True}),
    "cohere2": ("cohere2", WINDOWED),
    "olmo": ("olmo", GROUPED),
    "olmo2": ("olmo2", GROUPED),
    "olmo3": ("olmo3", WINDOWED),
    "granite": (
        "granite",
        {**GROUPED, "logits_scaling": 2.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    ),
    "starcoder2": ("starcoder2", WINDOWED),
    "stablelm": ("stablelm", GROUPED),
    "smollm3": ("smollm3", GROUPED),
    "glm4": ("glm4", WIDE_HEADS),
    "exaone4": ("exaone4", WINDOWED),
    "nemotron": ("nemotron", GROUPED),
    "mixtral": ("mixtral", {**GROUPED, **ROUTED}),
    "qwen2-moe": ("qwen2_moe", {**GROUPED, **ROUTED, "shared_expert_intermediate_size": 16}),
    "qwen3-moe": ("qwen3_moe", {**WIDE_HEADS, **ROUTED}),
    "gpt-oss": ("gpt_oss", {**WINDOWED, **ROUTED, "head_dim": 8}),
    "deepseek-v2": ("deepseek_v2", {**DECODER, **ROUTED, **SHARED_EXPERT, **LATENT_ATTENTION}),
    "glm4-moe": ("glm4_moe", {**WIDE_HEADS, **ROUTED, **SHARED_EXPERT}),
    "olmoe": ("olmoe", {**GROUPED, **ROUTED}),
    "granitemoe": ("granitemoe", {**GROUPED, **ROUTED}),
    "phimoe": ("phimoe", {**GROUPED, **ROUTED}),
}
"""Name to model type and config: families of which every parameter has a rule."""

PARTLY_SLOW_FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "mamba": ("mamba", STATE_SPACE),
    "mamba2": (
        "mamba2",
        {**STATE_SPACE, "head_dim": 8, "num_heads": 6, "n_groups": 1, "expand": 2, "chunk_size": 8},
    ),
    "falcon-mamba": ("falcon_mamba", STATE_SPACE),
    "rwkv": (
        "rwkv",
        {"hidden_size": 24, "num_hidden_layers": 2, "attention_hidden_size": 24, "context_length": 128, **SPECIAL},
    ),
    "jamba": (
        "jamba",
        {
            **GROUPED,
            **ROUTED,
            "mamba_d_state": 4,
            "mamba_expand": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "use_mamba_kernels": False,
        },
    ),
    "recurrent-gemma": (
        "recurrent_gemma",
        {
            **DECODER,
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "head_dim": 6,
            "lru_width": 24,
            "attention_window_size": 6,
        },
    ),
    "qwen3-next": (
        "qwen3_next",
        {
            **WIDE_HEADS,
            **ROUTED,
            "shared_expert_intermediate_size": 16,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "llama4": ("llama4_text", {**WIDE_HEADS, **ROUTED, "intermediate_size_mlp": 40}),
    "jetmoe": ("jetmoe", {**GROUPED, **ROUTED, "kv_channels": 6}),
}
"""Families of which some parameters take the slow exact way: convolutions, recurrences, unusual expert layers."""

PARTLY_UNUSED_FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gemma3-multimodal": (
        "gemma3",
        {
            "text_config": {**WINDOWED, "head_dim": 8},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
        },
    ),
}
"""Families of which text reaches a part only."""

ALL_FAMILIES = {**FAMILIES, **PARTLY_SLOW_FAMILIES, **PARTLY_UNUSED_FAMILIES}


def tiny_model(family: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """A tiny model of a family, every parameter random: none of the zeros and ones that hide mistakes."""
    model_type, settings = ALL_FAMILIES[family]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **settings)
    # Eager attention: fused kernels have no float64 form with softcaps, and their rounding depends on neighbours.
    # Eager experts for the reference too: grouped products have no float64 form.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype).eval()
