"""Causal LMs of any family that transformers knows, made small by what its settings are called."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, set_seed
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 256

SETTINGS: dict[str, Any] = {
    # sizes
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("shared_intermediate_size", "attention_hidden_size"), 32),
    **dict.fromkeys(("hidden_size_per_layer_input", "laurel_rank", "multiple_of"), 8),
    "ffn_dim_multiplier": 1.0,
    # depth
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    "num_kv_shared_layers": 0,
    "first_k_dense_replace": 1,
    # attention
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("head_dim", "attention_head_dim", "kv_channels", "v_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    "rotary_dim": 4,
    "sliding_window": 6,
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    # experts
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    # state-space mixers
    "mamba_d_ssm": 64,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
    **dict.fromkeys(("state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0),
}

# Multi-head latent attention has as many heads of keys as of queries.
LATENT = ("axk1", "axk2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa")
LATENT += ("longcat_flash", "minicpm3", "youtu")
FURTHER: dict[str, dict[str, Any]] = {
    **{family: {"num_key_value_heads": 4} for family in LATENT},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots1": dict.fromkeys(("n_group", "topk_group", "n_shared_experts"), 1)
    | {"n_routed_experts": 4, "num_experts_per_tok": 2},
    "gemma4_text": {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "ministral": {"head_dim": 8},
    "prophetnet": {
        "num_decoder_layers": 2,
        "num_encoder_layers": 2,
        "num_decoder_attention_heads": 4,
        "num_encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "is_decoder": True,
        "is_encoder_decoder": False,
    },
    "recurrent_gemma": {"num_hidden_layers": 4},
    "xlnet": {"d_inner": 64},
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "mamba", "hybrid", "mamba"],
        "hybrid_layer_ids": [2],
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "mamba_d_state": 8,
        "num_mem_blocks": 1,
        "adapter_rank": 4,
        "num_key_value_heads": 4,
        "attention_head_dim": 16,
    },
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
}
IGNORED = {
    "falcon": ("head_dim",),
    "mamba2": ("intermediate_size",),
    "prophetnet": ("num_hidden_layers",),
    "xlnet": ("hidden_size", "max_position_embeddings"),
    "zamba2": ("attention_hidden_size",),
}


def _usual(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # a setting that a family refuses, or that is another in each layer
        return None


def shrunk_model(family: str) -> Any:
    """A random model of a family, small, in evaluation mode."""
    kind = CONFIG_MAPPING[family]
    usual = kind()
    chosen = {
        name: value
        for name, value in SETTINGS.items()
        if isinstance(_usual(usual, name), (int, float)) and name not in IGNORED.get(family, ())
    }
    config = kind(**chosen | FURTHER.get(family, {}))
    set_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.1)
    return model
