"""Loading causal language models, finding what can be pruned in them, running them by block.

The names below are imported when first used, so that `prunerzero.models.names` loads without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunerzero.models.blocks import Block, Matrix, find_blocks, prunable_matrices
    from prunerzero.models.compute import Compute, compute_for
    from prunerzero.models.loading import load_model

__all__ = [
    "Block",
    "Compute",
    "Matrix",
    "compute_for",
    "find_blocks",
    "load_model",
    "prunable_matrices",
]

_HOMES = {
    "Block": "blocks",
    "Compute": "compute",
    "Matrix": "blocks",
    "compute_for": "compute",
    "find_blocks": "blocks",
    "load_model": "loading",
    "prunable_matrices": "blocks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
