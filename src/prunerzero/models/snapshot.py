"""Dense weights kept aside, so that one loaded model can be pruned again and again."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from prunerzero.models.blocks import Matrix


class DenseWeights:
    """Copies of the dense prunable weights, ``[out, in]`` each.

    Args:
        matrices: prunable matrices of a model that is dense now.
    """

    def __init__(self, matrices: Iterable[Matrix]) -> None:
        self._matrices = list(matrices)
        self.weights = {matrix.name: matrix.weight.clone() for matrix in self._matrices}

    @torch.no_grad()
    def write_masked(self, matrix: Matrix, mask: Tensor) -> None:
        """Sets a matrix to its dense weights where ``mask`` is True and ``+0.0`` elsewhere."""
        dense = self.weights[matrix.name]
        torch.where(
            mask, dense, torch.zeros((), dtype=dense.dtype, device=dense.device), out=matrix.weight
        )

    @torch.no_grad()
    def restore(self) -> None:
        """Makes the model dense again, bit for bit."""
        for matrix in self._matrices:
            matrix.weight.copy_(self.weights[matrix.name])
