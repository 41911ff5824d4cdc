"""Prunable weight matrices: those of layers, and those of experts that share one parameter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunerzero.pruning.allocation import MatrixShape


@dataclass(frozen=True)
class Matrix:
    """One prunable weight matrix.

    Attributes:
        name: dotted path inside the model: the layer's (``model.layers.0.self_attn.q_proj``), or
            for one of the experts in a 3-D parameter that parameter's and the expert's number
            (``model.layers.0.mlp.experts.down_proj.3``).
        kind: what it is called in every block (``q_proj``); allocations and formulas are set by
            kind.
        family: ``attention`` or ``mlp``.
        block: index of the block that holds it.
        blocks: number of blocks in the model.
        module: the module that owns the parameter.
        transposed: True where it is stored as ``[in, out]`` (GPT-2's ``Conv1D``).
        attribute: the parameter's name in the module.
        expert: index in a 3-D parameter ``[experts, ...]``; None for a parameter that is a matrix.
        siblings: what the same matrix of all experts of a block has in common; empty for matrices
            that every token meets.
    """

    name: str
    kind: str
    family: str
    block: int
    blocks: int
    module: nn.Module
    transposed: bool
    attribute: str = "weight"
    expert: int | None = None
    siblings: str = ""

    @property
    def parameter(self) -> nn.Parameter:
        """The stored parameter, in its own orientation; experts share one."""
        parameter = getattr(self.module, self.attribute)
        assert isinstance(parameter, nn.Parameter)
        return parameter

    @property
    def weight(self) -> Tensor:
        """A view ``[out_features, in_features]`` that shares memory with the model."""
        return self.oriented(self.parameter.detach())

    def oriented(self, stored: Tensor) -> Tensor:
        """The matrix's part of a tensor stored like the parameter (a gradient, say)."""
        part = stored if self.expert is None else stored[self.expert]
        return part.T if self.transposed else part

    @property
    def shape(self) -> MatrixShape:
        """What an allocation needs to know of the matrix."""
        rows, columns = self.weight.shape
        return MatrixShape(self.name, self.kind, self.block, self.blocks, rows, columns)


@torch.no_grad()
def apply_mask(matrix: Matrix, mask: Tensor) -> None:
    """Writes exact ``+0.0`` where ``mask`` ``[out, in]`` is False; kept weights stay untouched."""
    matrix.weight.masked_fill_(~mask, 0.0)


def is_mixture(matrices: Iterable[Matrix]) -> bool:
    """Whether some of the matrices are experts', which only some tokens meet."""
    return any(matrix.siblings for matrix in matrices)
