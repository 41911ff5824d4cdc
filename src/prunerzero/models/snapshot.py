"""Dense weights kept aside, so that one loaded model can be pruned again and again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.models.blocks import Matrix
from prunerzero.models.compute import Compute
from prunerzero.pruning.kernels import write_bfloat16

ALL_ROWS = slice(None)

# Integers as wide as a weight, by bytes.
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# What a kernel of ours rounds and writes in one pass, ten times as fast as two of torch's.
IN_ONE_PASS = (torch.float32, torch.bfloat16, "cpu")


class DenseWeights:
    """Copies of the dense prunable weights, contiguous, ``[out, in]`` each.

    Args:
        matrices: prunable matrices of a model that is dense now.
        passes: precision of the model's passes; lets `narrow` store the weights in it.

    Attributes:
        weights: the copies, by the matrix's name.
    """

    def __init__(self, matrices: Iterable[Matrix], passes: Compute | None = None) -> None:
        self._matrices = list(matrices)
        self.weights = {
            matrix.name: matrix.weight.clone(memory_format=torch.contiguous_format)
            for matrix in self._matrices
        }
        self._wide: dict[Tensor, Tensor] = {}  # the model's own tensors, while it is narrow
        self._narrow: dict[Tensor, Tensor] = {}
        if passes is not None and passes.dtype is not torch.float32:
            self._narrow = {
                layer.weight: torch.empty_like(layer.weight, dtype=passes.dtype)
                for layer in _linear_layers(self._matrices)
                if layer.weight.dtype is torch.float32
            }

    @torch.no_grad()
    def narrow(self) -> None:
        """Stores the weights of linear layers in the precision of the passes until `restore`.

        Autocast converts float32 weights at every pass, to the same numbers: that takes as long as
        a pass over some two hundred tokens. What the matrices hold then has to be written first
        (`write_masked`).
        """
        if self._wide:
            return
        for parameter, tensor in self._narrow.items():
            self._wide[parameter] = parameter.data
            parameter.data = tensor

    @torch.no_grad()
    def write_masked(self, matrix: Matrix, mask: Tensor, rows: slice = ALL_ROWS) -> None:
        """Sets rows of a matrix to their dense weights where ``mask`` is True, else to ``+0.0``.

        Args:
            matrix: one of the matrices.
            mask: bool ``[rows, in]``.
            rows: which rows.
        """
        # Integer products keep every bit, give +0.0, and unlike a selection have no branches: on
        # a CPU twelve times as fast as torch.where.
        dense = self.weights[matrix.name][rows]
        place = matrix.weight[rows]
        integer = INTEGERS[dense.dtype.itemsize]
        if place.dtype == dense.dtype:
            torch.mul(dense.view(integer), mask, out=place.view(integer))
        elif (dense.dtype, place.dtype, place.device.type) == IN_ONE_PASS and place.is_contiguous():
            write_bfloat16(_bits(dense), _bits(mask), _bits(place))
        else:
            place.copy_(torch.mul(dense.view(integer), mask).view(dense.dtype))

    @torch.no_grad()
    def restore(self) -> None:
        """Makes the model dense again, bit for bit."""
        for parameter, tensor in self._wide.items():
            parameter.data = tensor
        self._wide.clear()
        for matrix in self._matrices:
            matrix.weight.copy_(self.weights[matrix.name])


def _bits(tensor: Tensor) -> Any:
    return tensor.contiguous().view(INTEGERS[tensor.dtype.itemsize]).view(-1).numpy()


def _linear_layers(matrices: Iterable[Matrix]) -> list[nn.Linear]:
    """The layers whose weights autocast alone converts.

    Others are left alone: some look at their weights' precision to choose that of the rest.
    """
    return [matrix.module for matrix in matrices if isinstance(matrix.module, nn.Linear)]
