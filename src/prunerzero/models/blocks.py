"""Decoder blocks of a causal language model and the prunable matrices inside them, by inspection.

Nothing here knows an architecture by name: blocks are found through what transformers itself
declares (``_no_split_modules``), matrices through the layer types that multiply by a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prunerzero.errors import InputError
from prunerzero.pruning.allocation import MatrixShape

ATTENTION_NAMES = ("attn", "attention")


@dataclass(frozen=True)
class Matrix:
    """One prunable weight matrix.

    Attributes:
        name: dotted module path inside the model, e.g. ``model.layers.0.self_attn.q_proj``.
        kind: last component of the path (``q_proj``); allocations and formulas are set by kind.
        family: ``attention`` or ``mlp``.
        block: index of the block that holds it.
        blocks: number of blocks in the model.
        module: the layer that owns the weight.
        transposed: True where the layer stores ``[in, out]`` (GPT-2's ``Conv1D``).
    """

    name: str
    kind: str
    family: str
    block: int
    blocks: int
    module: nn.Module
    transposed: bool

    @property
    def parameter(self) -> nn.Parameter:
        """The stored parameter, in the layer's own orientation."""
        parameter = self.module.weight
        assert isinstance(parameter, nn.Parameter)
        return parameter

    @property
    def weight(self) -> Tensor:
        """A view ``[out_features, in_features]`` that shares memory with the model."""
        return self.oriented(self.parameter.detach())

    def oriented(self, stored: Tensor) -> Tensor:
        """Turns a tensor stored like the parameter (a gradient, say) into ``[out, in]``."""
        return stored.T if self.transposed else stored

    @property
    def shape(self) -> MatrixShape:
        """What an allocation needs to know of the matrix."""
        rows, columns = self.weight.shape
        return MatrixShape(self.name, self.kind, self.block, self.blocks, rows, columns)


@dataclass(frozen=True)
class Block:
    """One decoder block: its index, dotted name, module and prunable matrices."""

    index: int
    name: str
    module: nn.Module
    matrices: tuple[Matrix, ...]


def find_blocks(model: nn.Module) -> list[Block]:
    """Finds the decoder blocks and their prunable matrices.

    The blocks are the ``ModuleList`` whose items' class transformers names in
    ``_no_split_modules``; without such a list, the ``ModuleList`` with most parameters.
    Embeddings and ``lm_head`` lie outside the blocks and so are never pruned.

    Args:
        model: a Hugging Face causal LM.

    Returns:
        The blocks in order of execution.

    Raises:
        InputError: if the model has no repeated blocks, or no matrix in them can be pruned.
    """
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 0
    ]
    declared = set(getattr(model, "_no_split_modules", None) or ())
    matching = [pair for pair in lists if type(pair[1][0]).__name__ in declared]
    candidates = matching or lists
    if not candidates:
        raise InputError(f"model {type(model).__name__}: no list of decoder blocks found in it")
    prefix, modules = max(candidates, key=lambda pair: _parameter_count(pair[1]))
    blocks = [
        Block(index, f"{prefix}.{index}", block, tuple(_matrices(block, prefix, index, modules)))
        for index, block in enumerate(modules)
    ]
    if not any(block.matrices for block in blocks):
        kind = type(modules[0]).__name__
        raise InputError(f"model {type(model).__name__}: block {kind} holds no Linear or Conv1D")
    return blocks


def prunable_matrices(model: nn.Module) -> list[Matrix]:
    """All prunable matrices of the model, block by block."""
    return [matrix for block in find_blocks(model) for matrix in block.matrices]


def _parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _matrices(
    block: nn.Module, prefix: str, index: int, modules: nn.ModuleList
) -> Iterator[Matrix]:
    for path, module in block.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            *parents, kind = path.split(".")
            attention = any(word in parent for parent in parents for word in ATTENTION_NAMES)
            yield Matrix(
                name=f"{prefix}.{index}.{path}",
                kind=kind,
                family="attention" if attention else "mlp",
                block=index,
                blocks=len(modules),
                module=module,
                transposed=isinstance(module, Conv1D),
            )


@torch.no_grad()
def apply_mask(matrix: Matrix, mask: Tensor) -> None:
    """Writes exact ``+0.0`` where ``mask`` ``[out, in]`` is False; kept weights stay untouched."""
    matrix.weight.masked_fill_(~mask, 0.0)


InputHook = Callable[[Matrix, Tensor], None]


def watch_inputs(
    matrices: list[Matrix], hook: InputHook
) -> list[torch.utils.hooks.RemovableHandle]:
    """Calls ``hook(matrix, inputs)`` with inputs ``[..., in_features]`` at each layer's forward."""

    def attach(matrix: Matrix) -> torch.utils.hooks.RemovableHandle:
        return matrix.module.register_forward_pre_hook(
            lambda _module, arguments: hook(matrix, arguments[0])
        )

    return [attach(matrix) for matrix in matrices]
