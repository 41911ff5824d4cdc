"""Loading causal language models, finding what can be pruned in them, running them by block."""

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
