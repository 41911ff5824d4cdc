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


def make_model(
    family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any
) -> Any:
    """A random model in evaluation mode, nothing in it requiring gradients."""
    set_seed(seed)
    config = CONFIG_MAPPING[family](**CONFIGS[family] | overrides)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)


def make_tokens(count: int = 5, length: int = 16, seed: int = 1) -> torch.Tensor:
    """Random token ids ``[count, length]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (count, length), generator=generator)


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
