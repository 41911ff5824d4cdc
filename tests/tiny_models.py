"""Models of real architectures, small and random, and a tokenizer of one token a byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 256
LIMIT = 64
"""Longest sequence the models can read."""

_COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_LLAMA = _COMMON | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": LIMIT,
    # Far above the usual 0.02, so that blocks change their input as those of trained models do.
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
_MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
_GPT2 = _COMMON | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": LIMIT}
_OPT = _COMMON | {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 3}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA | {"sliding_window": 6},
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _LLAMA | {"sliding_window": 6},
    "gpt2": _GPT2 | {"initializer_range": 0.2},
    "opt": _OPT
    | {
        "num_attention_heads": 4,
        "max_position_embeddings": LIMIT,
        "word_embed_proj_dim": 32,
        "init_std": 0.2,
    },
}
FAMILIES = tuple(CONFIGS)
"""Those that most tests run on; `ALL_CONFIGS` is for tests of what differs between families."""

_EXPERTS = _LLAMA | {"num_experts_per_tok": 2, "moe_intermediate_size": 48}

ALL_CONFIGS: dict[str, dict[str, Any]] = CONFIGS | {
    "gemma": _LLAMA,
    "gemma3_text": _LLAMA | {"sliding_window": 6, "layer_types": _MIXED_LAYERS},
    "phi": _LLAMA,
    "phi3": _LLAMA,
    "gpt_neox": _LLAMA,
    "falcon": _COMMON
    | {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "initializer_range": 0.2,
    },
    "bloom": _COMMON | {"hidden_size": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.2},
    "olmo2": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "starcoder2": _LLAMA,
    "cohere": _LLAMA,
    "stablelm": _LLAMA,
    "mixtral": _EXPERTS | {"num_local_experts": 4},
    "qwen3_moe": _EXPERTS | {"num_experts": 4},
    "qwen2_moe": _EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 32},
    "olmoe": _EXPERTS | {"num_experts": 4},
    "granitemoe": _EXPERTS | {"num_local_experts": 4},
    "gpt_oss": _EXPERTS
    | {"num_local_experts": 4, "sliding_window": 6, "layer_types": _MIXED_LAYERS},
    "deepseek_v3": _EXPERTS
    | {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
    },
    "falcon_h1": _LLAMA
    | {
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_n_groups": 1,
        "mamba_d_state": 16,
        "mamba_chunk_size": 8,
    },
}
# Models that hold layers which they never call: cross-attention without an encoder, or weights that
# a kernel reads by itself.
UNCALLED: dict[str, dict[str, Any]] = {
    "bart": _COMMON
    | {
        "d_model": 32,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": LIMIT,
        "init_std": 0.2,
    },
    "mamba": _COMMON | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}
ARCHITECTURES = tuple(ALL_CONFIGS)
MIXTURES = tuple(name for name, config in ALL_CONFIGS.items() if "num_experts_per_tok" in config)


def make_model(
    family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any
) -> Any:
    """A random model in evaluation mode, nothing in it requiring gradients."""
    set_seed(seed)
    config = CONFIG_MAPPING[family](**(ALL_CONFIGS | UNCALLED)[family] | overrides)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)


def make_tokens(count: int = 5, length: int = 16, seed: int = 1) -> torch.Tensor:
    """Random token ids ``[count, length]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (count, length), generator=generator)


def block_outputs(model: Any, blocks: list[Any], tokens: torch.Tensor) -> list[torch.Tensor]:
    """Every block's output in one full pass."""
    outputs: dict[int, torch.Tensor] = {}

    def keep(index: int, output: Any) -> None:
        outputs[index] = output[0] if isinstance(output, tuple) else output

    handles = [
        block.module.register_forward_hook(lambda _m, _a, out, i=block.index: keep(i, out))
        for block in blocks
    ]
    with torch.no_grad():
        model(tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return [outputs[block.index] for block in blocks]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={s: n for n, s in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=LIMIT)


def save_model(directory: Path, family: str = "llama", **overrides: Any) -> Path:
    """A checkpoint with its tokenizer."""
    make_model(family, **overrides).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def make_text(seed: int, characters: int = 1500) -> str:
    """A text that no other seed gives: words of random letters."""
    generator = torch.Generator().manual_seed(seed)
    letters = torch.randint(26, (characters,), generator=generator).tolist()
    return "".join(chr(97 + n) if i % 7 else " " for i, n in enumerate(letters)).strip()
