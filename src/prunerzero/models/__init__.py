"""Loading causal language models, finding what can be pruned in them, running them by block.

The names below are imported when first used, so that `prunerzero.models.names` loads without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunerzero.lazy import attributes_on_demand

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

__getattr__ = attributes_on_demand(
    __name__,
    {
        "Block": "blocks",
        "Compute": "compute",
        "Matrix": "blocks",
        "compute_for": "compute",
        "find_blocks": "blocks",
        "load_model": "loading",
        "prunable_matrices": "blocks",
    },
)
