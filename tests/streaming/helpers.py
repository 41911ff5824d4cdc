"""What the tests of streaming share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import make_model, make_tokens

from prunerzero import Metric, Pattern, load_model, prune
from prunerzero.packing.checkpoint import DenseCheckpoint

HALF, NM = Pattern.parse("50%"), Pattern.parse("2:4")


def save(directory: Path, family: str = "llama", shard: str = "5GB", **options: Any) -> Path:
    """A checkpoint without a tokenizer, in shards of at most that size."""
    make_model(family, **options).save_pretrained(directory, max_shard_size=shard)
    return directory


def pruned_in_memory(source: Path, recipe: Any, pattern: Any, **options: Any) -> tuple[Any, Any]:
    """The model that the in-memory path makes of a checkpoint, and its result."""
    model, _ = load_model(source, device="cpu")
    options = {"calibration": make_tokens()} | options
    recipe = Metric.parse(recipe) if isinstance(recipe, str) else recipe
    return model, prune(model, None, recipe, pattern, **options)


def check_same(model: Any, directory: Path) -> None:
    """Fails unless a checkpoint loads as exactly this model."""
    again, _ = load_model(directory, device="cpu")
    found, expected = again.state_dict(), model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype


def stored(directory: Path) -> dict[str, tuple[str, str, bytes]]:
    """Every tensor's file, type and bytes."""
    checkpoint = DenseCheckpoint.open(directory)
    return {
        info.name: (file.path.name, info.dtype, checkpoint.read(info).tobytes())
        for info, file in checkpoint.tensors.items()
    }
