"""Pruned checkpoints of small random models."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_model, make_tokenizer


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Makes a checkpoint in ``tmp_path / "dense"``; ``kept`` of every four inputs stay."""

    def make(
        family: str = "llama",
        kept: int = 2,
        dtype: torch.dtype = torch.bfloat16,
        max_shard_size: int | str = "1GB",
        **overrides: Any,
    ) -> Path:
        model = make_model(family, dtype=dtype, **overrides)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and re.search(r"\.\d+\.", name):
                # GPT-2 stores [in, out].
                weight = parameter.data.T if family == "gpt2" else parameter.data
                weight.unflatten(-1, (-1, 4))[..., kept:] = 0.0
        model.save_pretrained(tmp_path / "dense", max_shard_size=max_shard_size)
        make_tokenizer().save_pretrained(tmp_path / "dense")
        (tmp_path / "dense" / "pruning.json").write_text("{}")
        return tmp_path / "dense"

    return make
